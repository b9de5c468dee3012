// Ways of calling that stack walkers get wrong. Each makes a system call of its own, so that the document tells them apart.
//
// want: PROGRAM getppid 1 chain=PROGRAM frames=under_alloca,uses_alloca,main
// want: PROGRAM getuid 1 chain=PROGRAM frames=on_illegal,faults_first,main
// want: PROGRAM geteuid 1 chain=PROGRAM frames=on_other_stack,main
// want: PROGRAM getegid 1 chain=PROGRAM frames=on_alarm,waits,main
// want: PROGRAM times 1 chain=PROGRAM frames=compare,sorts,main
// want: PROGRAM vfork 1 chain=PROGRAM frames=has_child,main
// want: PROGRAM getsid 1 chain=PROGRAM frames=has_child,main
// want: PROGRAM umask 1 chain=PROGRAM frames=is_tail,main
// want: PROGRAM sched_yield 1 chain=PROGRAM frames=recurses,recurses,recurses,main depth=100
// want: PROGRAM getpriority 1 chain=PROGRAM frames=in_atexit
// want: PROGRAM personality 1 chain=PROGRAM frames=in_constructor
// want: PROGRAM getgid 1 chain=PROGRAM frames=realigned,main
#define _GNU_SOURCE
#include <alloca.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define FUNCTION __attribute__((noinline, noclone)) // one that keeps its frame
#define KEEP() __asm__ volatile("" ::: "memory")    // makes the call before it no tail call

volatile int sink;

FUNCTION void under_alloca(char *memory) {
	sink = memory[0];
	getppid();
	KEEP();
}

FUNCTION void uses_alloca(int n) {
	char *memory = alloca(n);
	memset(memory, 1, n);
	under_alloca(memory);
	KEEP();
}

FUNCTION void on_illegal(int signal, siginfo_t *info, void *context) {
	getuid();
	((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2; // behind ud2
}

// The interrupted instruction is the function's first: its address is exact and no return address.
void faults_first(void);
__asm__(".text\n"
	"	nop\n"
	".type faults_first, @function\n"
	"faults_first:\n"
	"	.cfi_startproc\n"
	"	ud2\n"
	"	ret\n"
	"	.cfi_endproc\n"
	".size faults_first, .-faults_first\n");

FUNCTION void on_other_stack(int signal) {
	geteuid();
	KEEP();
}

FUNCTION void on_alarm(int signal) {
	getegid();
	KEEP();
}

FUNCTION void waits(void) {
	struct itimerval soon = {.it_value = {.tv_usec = 20000}};
	setitimer(ITIMER_REAL, &soon, NULL);
	pause();
	KEEP();
}

FUNCTION int compare(const void *a, const void *b) {
	struct tms t;
	times(&t);
	return *(const int *)a - *(const int *)b;
}

FUNCTION void sorts(void) {
	int numbers[] = {2, 1};
	qsort(numbers, 2, sizeof numbers[0], compare);
	KEEP();
}

FUNCTION void has_child(void) {
	int status;
	pid_t child = vfork();
	if (child == 0) {
		getsid(0);
		_exit(0);
	}
	waitpid(child, &status, 0);
}

FUNCTION int is_tail(int mask) {
	int before = umask(mask);
	KEEP();
	return before;
}

// Leaves no frame.
int jumps(int mask);
__asm__(".text\n"
	".type jumps, @function\n"
	"jumps:\n"
	"	.cfi_startproc\n"
	"	jmp is_tail\n"
	"	.cfi_endproc\n"
	".size jumps, .-jumps\n");

FUNCTION void recurses(int depth) {
	volatile char frame[100];
	frame[0] = depth;
	if (depth == 0)
		sched_yield();
	else
		recurses(depth - 1);
	KEEP();
}

FUNCTION void realigned(int n) {
	_Alignas(64) volatile char block[128];
	volatile char tail[n];
	block[0] = tail[n - 1] = 1;
	getgid();
	KEEP();
}

FUNCTION void in_atexit(void) {
	getpriority(PRIO_PROCESS, 0);
	KEEP();
}

__attribute__((constructor)) FUNCTION void in_constructor(void) {
	personality(0xffffffff);
	KEEP();
}

static void handle(int signal, void (*plain)(int), void (*full)(int, siginfo_t *, void *), int flags) {
	struct sigaction action = {.sa_flags = flags};
	if (full)
		action.sa_sigaction = full;
	else
		action.sa_handler = plain;
	sigaction(signal, &action, NULL);
}

int main(void) {
	static char other_stack[1 << 16];
	stack_t other = {.ss_sp = other_stack, .ss_size = sizeof other_stack};

	sigaltstack(&other, NULL);
	handle(SIGILL, NULL, on_illegal, SA_SIGINFO);
	handle(SIGUSR1, on_other_stack, NULL, SA_ONSTACK);
	handle(SIGALRM, on_alarm, NULL, 0);
	atexit(in_atexit);

	uses_alloca(1000);
	faults_first();
	raise(SIGUSR1);
	waits();
	sorts();
	has_child();
	jumps(022);
	recurses(95);
	realigned(10);
	return 0;
}
