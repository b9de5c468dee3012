// Ways around a filter for each library: each tries to make a directory of its name, which only libowner.so may do.
// Usage: ways NAME PATH-OF-LIBOWNER. The status is 0 however it went; what tells is the directory.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

void owner(const char *), landing(void), call_landing(void);
static const char *name, *library;
static volatile long result;

// mkdir(rdi, rsi); ret
static const unsigned char code[] = {0xb8, SYS_mkdir, 0, 0, 0, 0x0f, 0x05, 0xc3};
// the same by int 0x80: ebx, ecx
static const unsigned char code32[] = {0x53, 0x89, 0xfb, 0x89, 0xf1, 0xb8, 39, 0, 0, 0, 0xcd, 0x80, 0x5b, 0xc3};

static void run(const void *at) { result = ((long (*)(const char *, long))at)(name, 0755); }
static void own(void) { result = mkdir(name, 0755); }
static void *map(int prot, int flags, int fd) { return mmap(0, 4096, prot, flags, fd, 0); }

static void direct(void) { result = syscall(SYS_mkdir, name, 0755); }
static void jit(void)
{
	void *p = map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (p == MAP_FAILED) return;
	run(memcpy(p, code, sizeof code));
}
static void later(void)
{
	void *p = map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memcpy(p, code, sizeof code);
	if (mprotect(p, 4096, PROT_READ | PROT_EXEC) == 0) run(p);
}
static void memfd(void)
{
	int fd = memfd_create("libowner.so", 0);
	if (write(fd, code, sizeof code) < 0) return;
	void *p = map(PROT_READ | PROT_EXEC, MAP_SHARED, fd);
	if (p != MAP_FAILED) run(p);
}
static void int80(void)
{
	char *low = map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1);
	memcpy(low, code32, sizeof code32);
	name = strcpy(low + 64, name);
	run(low);
}
static void x32(void) { result = syscall(SYS_mkdir | 0x40000000, name, 0755); }
static void uring(void)
{
	char params[120] = {0};
	if (syscall(425, 8, params) >= 0) own(); // there is more to it, but here it begins
}
static void *start(void *unused) { own(); return unused; }
static void thread(void)
{
	pthread_t t;
	pthread_create(&t, 0, start, 0);
	pthread_join(t, 0);
}
static void vforked(void)
{
	pid_t p = vfork();
	if (p == 0) {
		result = mkdir(name, 0755);
		_exit(0);
	}
	waitpid(p, 0, 0);
}
static int child(void *unused) { own(); (void)unused; return 0; }
static char stack[65536], stack2[65536];
static void cloned(void)
{
	int p = clone(child, stack + sizeof stack, CLONE_VM | SIGCHLD, 0);
	waitpid(p, 0, 0);
}
static void handler(int s) { own(); (void)s; }
static void altstack(void)
{
	stack_t s = {.ss_sp = stack, .ss_size = sizeof stack};
	struct sigaction a = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
	sigaltstack(&s, 0);
	sigaction(SIGUSR1, &a, 0);
	raise(SIGUSR1);
}
static ucontext_t back, there;
static void context(void)
{
	getcontext(&there);
	there.uc_stack.ss_sp = stack, there.uc_stack.ss_size = sizeof stack, there.uc_link = &back;
	makecontext(&there, own, 0);
	swapcontext(&back, &there);
}
// A return address in the library that may, where no call is before it: landing goes on at r12.
static void __attribute__((noinline)) forge(void (*where)(void))
{
	int (*call)(const char *, mode_t) = mkdir;
	const char *path = name;
	long mode = 0755;
	__asm__ volatile("push %%rbp; push %%rbx; push %%r12; lea 1f(%%rip), %%r12; sub $128, %%rsp; push %%rcx; jmp *%%rax; 1: add $128, %%rsp;"
		"pop %%r12; pop %%rbx; pop %%rbp"
		: "+c"(where), "+a"(call), "+D"(path), "+S"(mode) :: "rdx", "r8", "r9", "r10", "r11", "r13", "r14", "r15", "memory", "cc");
}
static void notcall(void) { forge(landing); }
static void forged(void) { forge(call_landing); }
static void overlib(void)
{
	char *page = (char *)((long)owner & ~4095);
	if (mmap(page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != page) return;
	run(memcpy(page, code, sizeof code));
}
// The page that makes the call is a piece of the library by the time that anybody looks.
static char *volatile spot;
static volatile int over;
static void *maker(void *unused)
{
	while (!over)
		result = ((long (*)(const char *, long))spot)(name, 0755);
	return unused;
}
static void segv(int s) { (void)s; pthread_exit(0); }
static void race(void)
{
	int fd = open(library, O_RDONLY);
	struct timespec begin, now;
	signal(SIGSEGV, segv), signal(SIGILL, segv), signal(SIGBUS, segv);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		pthread_t t;
		spot = map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
		memcpy(spot, code, sizeof code);
		over = 0;
		pthread_create(&t, 0, maker, 0);
		for (int i = 0; i < 20; i++) {
			mmap(spot, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, 4096);
			mmap(spot, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
			memcpy(spot, code, sizeof code);
		}
		over = 1;
		pthread_join(t, 0);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - begin.tv_sec < 3);
}
static pid_t sibling(void)
{
	pid_t p = fork();
	if (p == 0)
		for (;;) pause();
	return p;
}
static void ptraced(void)
{
	pid_t p = sibling();
	if (ptrace(PTRACE_ATTACH, p, 0, 0) == 0) own(), mkdirat(AT_FDCWD, name, 0755);
	else fprintf(stderr, "ptrace: %s\n", strerror(errno));
	kill(p, SIGKILL);
}
static void written(void)
{
	pid_t p = sibling();
	struct iovec from = {(void *)code, sizeof code}, to = {stack2, sizeof code};
	if (process_vm_writev(p, &from, 1, &to, 1, 0) > 0) owner(name);
	else fprintf(stderr, "process_vm_writev: %s\n", strerror(errno));
	kill(p, SIGKILL);
}
static void listener(void)
{
	struct sock_filter f[] = {{0x06, 0, 0, SECCOMP_RET_USER_NOTIF}};
	struct sock_fprog program = {1, f};
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program) >= 0) owner(name);
	else fprintf(stderr, "listener: %s\n", strerror(errno));
}
static void supervisor(void)
{
	pid_t p = getppid();
	char path[64];
	struct iovec from = {(void *)code, sizeof code}, to = {(void *)0x400000, sizeof code};
	snprintf(path, sizeof path, "/proc/%d/mem", p);
	if (open(path, O_RDWR) >= 0 || process_vm_readv(p, &from, 1, &to, 1, 0) > 0) owner(name);
	else fprintf(stderr, "supervisor: %s\n", strerror(errno));
}
static void exempt(void) // what the policy allows: the control
{
	owner(name);
}

int main(int argc, char **argv)
{
	struct { const char *name; void (*try)(void); } all[] = {
		{"direct", direct}, {"jit", jit}, {"later", later}, {"memfd", memfd}, {"int80", int80}, {"x32", x32}, {"uring", uring},
		{"thread", thread}, {"vfork", vforked}, {"clone", cloned}, {"altstack", altstack}, {"context", context},
		{"notcall", notcall}, {"forged", forged}, {"overlib", overlib}, {"race", race}, {"ptrace", ptraced}, {"written", written},
		{"listener", listener}, {"supervisor", supervisor}, {"own", own}, {"allowed", exempt},
	};
	for (unsigned i = 0; argc == 3 && i < sizeof all / sizeof *all; i++)
		if (!strcmp(argv[1], all[i].name)) {
			name = argv[1], library = argv[2];
			all[i].try();
			return 0;
		}
	return 2;
}
