#include <unistd.h>

#define KEEP() __asm__ volatile("" ::: "memory")

void inner_ppid(void) {
	getppid();
	KEEP();
}

void inner_uid(void) {
	getuid();
	KEEP();
}

void inner_calls(void (*function)(void)) {
	function();
	KEEP();
}
