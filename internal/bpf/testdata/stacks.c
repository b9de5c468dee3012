/* Threads that block in pause() below frames of every shape; to be compiled without frame pointers. */
#define _GNU_SOURCE
#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

static volatile int sink;

static __attribute__((noinline)) int block(int n)
{
	pause();
	return n + sink;
}

static __attribute__((noinline)) int recurse(int n)
{
	char local[24 + 8 * (n & 3)];

	memset(local, n, sizeof local);
	sink += n ? recurse(n - 1) : block(n);
	return local[0];
}

static void *deep(void *arg) { return sink = recurse(300), arg; }

static void *too_deep(void *arg) { return sink = recurse(3000), arg; }

/* A frame of unknown size, and one that is aligned through another register (DRAP). */
static void *dynamic(void *arg)
{
	char aligned[256] __attribute__((aligned(128)));
	char *p = alloca(16 + sink * 16);

	memset(aligned, 1, sizeof aligned);
	memset(p, 1, 16);
	sink = recurse(3) + aligned[sink] + p[sink];
	return arg;
}

static int compare(const void *a, const void *b) { return block(1) + *(const int *)a - *(const int *)b; }

static void *callback(void *arg)
{
	int v[32] = { 1 };

	qsort(v, 32, sizeof *v, compare);
	sink = v[0];
	return arg;
}

/* Its first instruction traps: the byte before it belongs to another function. */
void trap(void);
__asm__(".p2align 4\n.type trap, @function\ntrap:\n.cfi_startproc\nud2\nret\n.cfi_endproc\n.size trap, .-trap\n");

static void handler(int sig) { sink = block(sig); }

static void *on_signal_stack(void *arg)
{
	stack_t alternate = { .ss_sp = malloc(1 << 16), .ss_size = 1 << 16 };

	sigaltstack(&alternate, NULL);
	trap();
	return arg;
}

static void run(void) { sink = block(1); }

static void *coroutine(void *arg)
{
	ucontext_t back, there;

	getcontext(&there);
	there.uc_stack.ss_sp = malloc(1 << 16);
	there.uc_stack.ss_size = 1 << 16;
	there.uc_link = &back;
	makecontext(&there, run, 0);
	swapcontext(&back, &there);
	return arg;
}

/* Code that no file backs, with a frame pointer: push rbp; mov rbp, rsp; call rdi; pop rbp; ret */
static void *jit(void *arg)
{
	static const unsigned char code[] = { 0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3 };
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memcpy(page, code, sizeof code);
	((void (*)(void (*)(void)))page)(run);
	return arg;
}

int main(void)
{
	void *(*const starts[])(void *) = { deep, too_deep, dynamic, callback, on_signal_stack, coroutine, jit };
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_ONSTACK };

	sigaction(SIGILL, &action, NULL);
	for (int i = 0; i < (int)(sizeof starts / sizeof *starts); i++) {
		pthread_t thread;

		pthread_create(&thread, NULL, starts[i], NULL);
	}
	return block(0);
}
