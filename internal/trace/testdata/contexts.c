// Coroutines on stacks of their own, below and above the main one.
//
// want: PROGRAM getppid 6 via=getppid chain=PROGRAM frames=in_coroutine,coroutine
// want: PROGRAM getuid 6 via=getuid chain=PROGRAM frames=main
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

static ucontext_t home, contexts[2];

__attribute__((noinline)) static void in_coroutine(void) {
	getppid();
	__asm__ volatile("");
}

static void coroutine(int self) {
	for (int i = 0; i < 3; i++) {
		in_coroutine();
		swapcontext(&contexts[self], &home);
	}
}

int main(void) {
	const size_t size = 1 << 16;
	for (int i = 0; i < 2; i++) {
		getcontext(&contexts[i]);
		contexts[i].uc_stack.ss_sp = i ? malloc(size)
			: mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		contexts[i].uc_stack.ss_size = size;
		contexts[i].uc_link = &home;
		makecontext(&contexts[i], (void (*)(void))coroutine, 1, i);
	}
	for (int i = 0; i < 6; i++) {
		swapcontext(&home, &contexts[i % 2]);
		getuid();
	}
	return 0;
}
