// Code that no file backs, or an anonymous memory file: as just-in-time compilers make it, with frame pointers.
//
// want: [anonymous] getppid 2 via= chain=[anonymous],PROGRAM
// want: PROGRAM getuid 3 via=getuid chain=PROGRAM,[anonymous] frames=called_back,,main
// want: [memfd:code] geteuid 4 via= chain=[memfd:code],PROGRAM
// want: [memfd:second] getgid 1 via= chain=[memfd:second],PROGRAM
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

// push rbp; mov rbp, rsp; mov eax, NR; syscall; pop rbp; ret
#define CALLER(nr) {0x55, 0x48, 0x89, 0xe5, 0xb8, nr, 0, 0, 0, 0x0f, 0x05, 0x5d, 0xc3}

static const unsigned char
	gets_ppid[] = CALLER(SYS_getppid), gets_euid[] = CALLER(SYS_geteuid), gets_gid[] = CALLER(SYS_getgid),
	// push rbp; mov rbp, rsp; call rdi; pop rbp; ret
	calls_back[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3};

__attribute__((noinline)) static void called_back(void) {
	getuid();
	__asm__ volatile("");
}

// A page with code, optionally of a memory file and at a place of its own.
static void *page(const unsigned char *code, size_t size, const char *name, void *place) {
	const size_t length = 4096;
	int fixed = place ? MAP_FIXED : 0, fd = -1;
	if (name) {
		fd = memfd_create(name, 0);
		if (write(fd, code, size) != (ssize_t)size || ftruncate(fd, length))
			_exit(1);
		return mmap(place, length, PROT_READ | PROT_EXEC, MAP_SHARED | fixed, fd, 0);
	}
	void *at = mmap(place, length, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0);
	memcpy(at, code, size);
	return at;
}

int main(void) {
	void (*ppid)(void) = page(gets_ppid, sizeof gets_ppid, NULL, NULL);
	void (*back)(void (*)(void)) = page(calls_back, sizeof calls_back, NULL, NULL);
	void *shared = page(gets_euid, sizeof gets_euid, "code", NULL);

	for (int i = 0; i < 2; i++)
		ppid();
	for (int i = 0; i < 3; i++)
		back(called_back);
	for (int i = 0; i < 4; i++)
		((void (*)(void))shared)();
	// Other code at the same place, in one system call that leaves as many executable pages as before.
	page(gets_gid, sizeof gets_gid, "second", shared);
	((void (*)(void))shared)();
	return 0;
}
