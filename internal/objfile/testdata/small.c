// small.so, the smallest library that a real linker makes with versions, packed
// relocations and a GNU hash table:
//
//	gcc -shared -fPIC -Os -nostdlib -fno-asynchronous-unwind-tables \
//	    -Wl,--version-script=small.map,-z,pack-relative-relocs,-z,noseparate-code,-s,--hash-style=gnu,--build-id=sha1 \
//	    -Wl,-soname,small.so small.c -o small.so
//
// bulkhead's tests read it; nothing loads it.
__asm__(".symver old_api, api@SMALL_1");
__asm__(".symver new_api, api@@SMALL_2");

extern int imported(void);

static int hidden(void) { return 1; }
int old_api(void) { return hidden(); }
int new_api(void) { return imported(); }
int (*table[])(void) = {hidden, hidden, imported};
