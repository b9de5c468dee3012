// Every way of making a process, a thread and a program image, with the same system calls at every run: nothing here
// waits in a loop of calls or depends on who is faster. The first argument is the path of the other image.
//
// want: PROGRAM getppid 20 via=getppid chain=PROGRAM frames=works,forks,main
// want: PROGRAM getuid 12 via=getuid chain=PROGRAM frames=thread
// want: PROGRAM vfork 3 chain=PROGRAM frames=runs,main
// want: PROGRAM clone3 5 chain=PROGRAM
// want: PROGRAM setsid 1 via=setsid chain=PROGRAM frames=daemonizes,main
// want: PROGRAM getpgid 1 via=getpgid chain=PROGRAM frames=daemonizes,main
// want: PROGRAM geteuid 3 via=syscall chain=PROGRAM frames=clones,main
// want: PROGRAM getgid 1 via=getgid chain=PROGRAM frames=ends_process
// want: PROGRAM exit_group 11 chain=PROGRAM
// want: PROGRAM execve 4 via=execve chain=PROGRAM
// want: image getegid 4 via=getegid chain=image frames=main program=image
// want: image times 7 via=times chain=image frames=main program=image
// want: image execve 3 via=execve chain=image frames=main program=image
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define FUNCTION __attribute__((noinline, noclone))
#define KEEP() __asm__ volatile("" ::: "memory")

static char *image;
static volatile int started;

FUNCTION static void works(int times) {
	while (times-- > 0)
		getppid();
	KEEP();
}

FUNCTION static void ended(pid_t child) {
	int status;
	if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status))
		_exit(9);
}

FUNCTION static void forks(int children) {
	for (int i = 0; i < children; i++) {
		pid_t child = fork();
		if (child == 0) {
			works(5);
			_exit(0);
		}
		ended(child);
	}
	KEEP();
}

static void *thread(void *times) {
	for (long i = (long)times; i > 0; i--)
		getuid();
	KEEP();
	return NULL;
}

// Joins without a system call, of which it could need one or none.
FUNCTION static void join(pthread_t t) {
	while (pthread_tryjoin_np(t, NULL))
		__builtin_ia32_pause();
}

FUNCTION static void starts_threads(void) {
	pthread_t threads[3];
	for (long i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, thread, (void *)4);
	for (int i = 0; i < 3; i++)
		join(threads[i]);
}

// A vfork child execs the image, which execs itself once.
FUNCTION static void runs(void) {
	char *argv[] = {image, "again", NULL};
	pid_t child = vfork();
	if (child == 0) {
		execve(image, argv, environ);
		_exit(8);
	}
	ended(child);
}

// The grandchild outlives its parent.
FUNCTION static void daemonizes(void) {
	pid_t child = fork();
	if (child == 0) {
		setsid();
		if (fork() == 0) {
			getpgid(0);
			for (volatile int i = 0; i < 30000000; i++)
				;
			_exit(0);
		}
		_exit(0);
	}
	ended(child);
}

FUNCTION static void clones(void) {
	for (int i = 0; i < 3; i++) {
		pid_t child = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
		if (child == 0) {
			syscall(SYS_geteuid);
			syscall(SYS_exit_group, 0);
		}
		ended(child);
	}
	KEEP();
}

// What pthread_create does behind its clone3 must not depend on when the new thread ends it.
static void *ends_process(void *unused) {
	while (!started)
		__builtin_ia32_pause();
	getgid();
	_exit(0);
}

static void *execs(void *unused) {
	char *argv[] = {image, NULL};
	while (!started)
		__builtin_ia32_pause();
	execve(image, argv, environ);
	_exit(7);
}

// The child's main thread runs until another ends the process or its image.
FUNCTION static void leaves_by_thread(void *(*leave)(void *)) {
	pid_t child = fork();
	if (child == 0) {
		pthread_t t;
		pthread_create(&t, NULL, leave, NULL);
		started = 1;
		for (;;)
			__builtin_ia32_pause();
	}
	ended(child);
}

int main(int argc, char **argv) {
	image = argv[1];
	forks(4);
	starts_threads();
	for (int i = 0; i < 3; i++)
		runs();
	daemonizes();
	clones();
	leaves_by_thread(ends_process);
	leaves_by_thread(execs);
	return 0;
}
