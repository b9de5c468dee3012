// The target of --pid: threads that are in and between system calls while others come and go. Told by SIGUSR1 the process
// starts ten more, and then each makes a known number of calls; told by SIGTERM the process ends.
//
// want: PROGRAM getuid 6000 via=getuid chain=PROGRAM frames=works
// want: PROGRAM getgid 1 via=getgid chain=PROGRAM frames=main
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 50, LATE = 10, CALLS = 100 };

static atomic_int counted, all, ended;

static void told(int signal) {
	if (signal == SIGUSR1)
		counted = 1;
	else
		ended = 1;
}

static void moment(void) { nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); }

static void *short_lived(void *unused) { return unused; }

static void *works(void *unused) {
	while (!all) {
		getppid();
		moment();
	}
	for (int i = 0; i < CALLS; i++)
		getuid();
	return unused;
}

static void start(pthread_t *threads, int n) {
	for (int i = 0; i < n; i++)
		pthread_create(&threads[i], NULL, works, NULL);
}

int main(void) {
	pthread_t threads[THREADS + LATE], other;
	signal(SIGUSR1, told);
	signal(SIGTERM, told);
	start(threads, THREADS);
	if (write(1, "r", 1) != 1)
		return 1;
	while (!counted) {
		pthread_create(&other, NULL, short_lived, NULL);
		pthread_join(other, NULL);
		moment();
	}
	start(threads + THREADS, LATE);
	all = 1;
	for (int i = 0; i < THREADS + LATE; i++)
		pthread_join(threads[i], NULL);
	getgid();
	while (!ended)
		moment();
	return 0;
}
