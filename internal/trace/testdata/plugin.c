// Built with -DCALL= and -DSTART=, the system calls that it makes.
#include <sys/times.h>
#include <unistd.h>

__attribute__((constructor)) static void plugin_starts(void) {
#ifdef START
	START;
	__asm__ volatile("");
#endif
}

void plugin_call(void) {
	CALL;
	__asm__ volatile("");
}
