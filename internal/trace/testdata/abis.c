// Calls of another table and of none: named by their own tables, whatever the kernel answers.
//
// want: PROGRAM x32:getpid 2 via= chain=PROGRAM frames=x32,main
// want: PROGRAM getppid 1 via= chain=PROGRAM frames=direct,main
// want: PROGRAM syscall_9999 1 via=syscall chain=PROGRAM
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((noinline)) static void x32(void) {
	long result = 0x40000000 | SYS_getpid;
	__asm__ volatile("syscall" : "+a"(result) : : "memory", "rcx", "r11");
}

__attribute__((noinline)) static void direct(void) {
	long result = SYS_getppid;
	__asm__ volatile("syscall" : "+a"(result) : : "memory", "rcx", "r11");
}

int main(void) {
	for (int i = 0; i < 2; i++)
		x32();
	direct();
	syscall(9999);
	return 0;
}
