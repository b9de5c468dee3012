// Generated code without a frame: the calls are its own, whatever is above it. The memory file is an ELF library.
//
// losses: broken_stacks
// want: [anonymous] getppid 2 via=
// want: [memfd:plugin] getuid 2 via=getuid chain=[memfd:plugin],PROGRAM frames=plugin_call,main
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv) {
	// mov eax, NR; syscall; ret
	static const unsigned char code[] = {0xb8, SYS_getppid, 0, 0, 0, 0x0f, 0x05, 0xc3};
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(page, code, sizeof code);
	((void (*)(void))page)();
	((void (*)(void))page)();

	char path[64];
	int from = open(argv[1], O_RDONLY), to = memfd_create("plugin", 0);
	while (sendfile(to, from, NULL, 1 << 20) > 0)
		;
	snprintf(path, sizeof path, "/proc/self/fd/%d", to);
	void *library = dlopen(path, RTLD_NOW);
	if (!library)
		return 1;
	void (*call)(void) = (void (*)(void))dlsym(library, "plugin_call");
	usleep(200000); // the tracer reads the file as long as it is mapped
	call();
	call();
	return 0;
}
