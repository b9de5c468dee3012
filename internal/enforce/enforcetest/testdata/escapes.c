/* escapes WAY [FILE]: get a system call past the filter, or get through it many times. The program may not call getppid,
 * libb.so and libplugin.so may. Says "escaped" when the program's own call returned. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

int b_call(const char *what, const char *file);

static const unsigned char code[] = { 0xb8, 110, 0, 0, 0, 0x0f, 0x05, 0xc3 }; /* mov $110 (getppid),%eax; syscall; ret */

static void escaped(void) { write(1, "escaped\n", 8); }

static void call(void)
{
	if (getppid() > 0)
		escaped();
}

static void run(void *at)
{
	long (*f)(void) = at;

	if (f() > 0)
		escaped();
}

static void *thread(void *unused)
{
	call();
	return unused;
}

static void handler(int signal) { call(); }

static ucontext_t here, there;
static char stack[1 << 16];

static int in_child(int pid)
{
	int status = 0;

	waitpid(pid, &status, 0);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int child(void *unused)
{
	call();
	return 0;
}

static long raw(long nr, long a, long b, long c, long d)
{
	long r;
	register long r10 asm("r10") = d;

	asm volatile("syscall" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return r;
}

/* Call getppid of libc on a stack that claims that libb has called it, from a place where there is no call. */
static void forge(long offset)
{
	unsigned long *frames = (unsigned long *)(stack + sizeof(stack)) - 512;

	for (int i = 0; i < 256; i++)
		frames[i] = (unsigned long)b_call + offset;
	asm volatile("mov %0, %%rsp; jmp *%1" : : "r"(frames), "r"(getppid) : "memory");
}

static void *many(void *unused)
{
	for (int i = 0; i < 10; i++)
		if (b_call("getppid", ""))
			abort();
	return unused;
}

static int threads(int n)
{
	static pthread_t t[1000];

	for (int i = 0; i < n; i++)
		if (pthread_create(&t[i], NULL, many, NULL))
			return 2;
	for (int i = 0; i < n; i++)
		pthread_join(t[i], NULL);
	return 0;
}

/* Change mappings all the time, as a server does that forks or frees much memory. */
static void *change(void *unused)
{
	for (;;) {
		char *large = mmap(NULL, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
		pid_t pid;

		munmap(large, 8 << 20);
		munmap(mmap(NULL, 4096, PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096); /* all code is looked up again */
		pid = fork();
		if (!pid)
			_exit(0);
		in_child(pid);
	}
}

static int forks(int n)
{
	for (int i = 0; i < n; i++) {
		pid_t pid = fork();

		if (pid < 0)
			return 2;
		if (!pid)
			_exit(b_call("getppid", ""));
		if (in_child(pid))
			return 3;
	}
	return 0;
}

static int plugins(const char *file, int n)
{
	for (int i = 0; i < n; i++) {
		void *plugin = dlopen(file, RTLD_NOW);
		int (*f)(const char *, const char *) = plugin ? (void *)dlsym(plugin, "p_call") : NULL;

		if (!f || f("getppid", ""))
			return 2;
		dlclose(plugin);
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *way = argv[1], *file = argc > 2 ? argv[2] : "";
	int n = argc > 3 ? atoi(argv[3]) : 0;
	int all = PROT_READ | PROT_WRITE | PROT_EXEC;
	char *page;

	if (!strcmp(way, "direct"))
		call();
	if (!strcmp(way, "jit")) {
		page = mmap(NULL, 4096, all, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		run(memcpy(page, code, sizeof(code)));
	}
	if (!strcmp(way, "later")) {
		page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		memcpy(page, code, sizeof(code));
		mprotect(page, 4096, PROT_READ | PROT_EXEC);
		run(page);
	}
	if (!strcmp(way, "memfd")) {
		int fd = memfd_create("code", 0);

		write(fd, code, sizeof(code));
		run(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0));
	}
	if (!strcmp(way, "over")) {
		page = (char *)((unsigned long)b_call & ~4095UL);
		b_call("getppid", ""); /* now the kernel part remembers the library's code */
		page = mmap(page, 4096, all, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		run(memcpy(page, code, sizeof(code)));
	}
	if (!strcmp(way, "x32") && raw(0x40000000 | SYS_getppid, 0, 0, 0, 0) > 0)
		escaped();
	if (!strcmp(way, "compat")) {
		long r = 64; /* getppid of i386 */

		asm volatile("int $0x80" : "+a"(r) : : "r8", "r9", "r10", "r11", "memory");
		if (r > 0)
			escaped();
	}
	if (!strcmp(way, "io_uring") && raw(425, 8, (long)stack, 0, 0) >= 0)
		escaped();
	if (!strcmp(way, "ptrace") && ptrace(PTRACE_ATTACH, getpid() + 1, 0, 0) >= -1)
		escaped();
	if (!strcmp(way, "vm_writev") && process_vm_writev(getpid(), NULL, 0, NULL, 0, 0) >= -1)
		escaped();
	if (!strcmp(way, "thread")) {
		pthread_t t;

		pthread_create(&t, NULL, thread, NULL);
		pthread_join(t, NULL);
	}
	if (!strcmp(way, "fork")) {
		pid_t pid = fork();

		if (!pid)
			_exit(child(NULL));
		return in_child(pid);
	}
	if (!strcmp(way, "vfork")) {
		pid_t pid = vfork();

		if (!pid) {
			call();
			_exit(0);
		}
		return in_child(pid);
	}
	if (!strcmp(way, "clone"))
		return in_child(clone(child, stack + sizeof(stack), SIGCHLD | CLONE_VM, NULL));
	if (!strcmp(way, "signal")) {
		stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };
		struct sigaction action = { .sa_handler = handler, .sa_flags = SA_ONSTACK };

		sigaltstack(&alternate, NULL);
		sigaction(SIGUSR1, &action, NULL);
		raise(SIGUSR1);
	}
	if (!strcmp(way, "context")) {
		getcontext(&there);
		there.uc_stack.ss_sp = stack;
		there.uc_stack.ss_size = sizeof(stack);
		there.uc_link = &here;
		makecontext(&there, call, 0);
		swapcontext(&here, &there);
	}
	if (!strcmp(way, "forged"))
		forge(1);
	if (!strcmp(way, "changed")) {
		int fd = open(file, O_WRONLY | O_APPEND);
		pid_t pid;

		write(fd, "", 1);
		close(fd);
		pid = vfork();
		if (!pid) {
			execl(file, file, NULL);
			_exit(1);
		}
		n = in_child(pid);
		if (n == 0)
			escaped();
		return n;
	}
	if (!strcmp(way, "wait")) {
		char line;

		printf("%d\n", getpid());
		fflush(stdout);
		read(0, &line, 1);
		call();
	}
	if (!strcmp(way, "loop")) {
		char line;

		printf("%d\n", getpid());
		fflush(stdout);
		fcntl(0, F_SETFL, O_NONBLOCK);
		while (read(0, &line, 1) < 0)
			many(NULL);
		puts("done");
	}
	if (!strcmp(way, "threads"))
		return threads(n);
	if (!strcmp(way, "busy")) {
		pthread_t t;

		for (int i = 0; i < 3; i++)
			pthread_create(&t, NULL, change, NULL);
		return threads(n);
	}
	if (!strcmp(way, "forks"))
		return forks(n);
	if (!strcmp(way, "plugins"))
		return plugins(file, n);
	return 0;
}
