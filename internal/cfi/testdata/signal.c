// A handler that runs in the middle of a leaf function, on an alternate stack, and blocks.
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <stdlib.h>
#include <sys/time.h>
#include <unistd.h>
volatile unsigned long sink;
__attribute__((noinline)) void inner(void) { pause(); sink++; }
void handler(int sig) { inner(); sink++; }
__attribute__((noinline)) unsigned long spin(unsigned long n) {
	while (sink == 0)
		n = n * 6364136223846793005ul + 1;
	return n;
}
__attribute__((noinline)) int outer(int n) { return spin(n) + sink; }
int main(int argc, char **argv) {
	stack_t alt = {.ss_sp = malloc(65536), .ss_size = 65536};
	struct sigaction sa;
	struct itimerval soon = {{0, 0}, {0, 20000}};
	memset(&sa, 0, sizeof sa);
	sa.sa_handler = handler;
	sa.sa_flags = SA_ONSTACK;
	sigaltstack(&alt, NULL);
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	return outer(argc);
}
