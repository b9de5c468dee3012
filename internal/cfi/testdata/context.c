// A coroutine on a stack of its own.
#include <stdlib.h>
#include <ucontext.h>
#include <unistd.h>
volatile int sink;
static ucontext_t back, there;
__attribute__((noinline)) int inner(int n) { pause(); return n + sink; }
void run(void) { sink = inner(1); }
int main(int argc, char **argv) {
	getcontext(&there);
	there.uc_stack.ss_sp = malloc(65536);
	there.uc_stack.ss_size = 65536;
	there.uc_link = &back;
	makecontext(&there, run, 0);
	swapcontext(&back, &there);
	return sink;
}
