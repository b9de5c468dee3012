// Many threads that are inside and between system calls, until the process is told to end: the target of --pid.
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

static atomic_int stop;

static void told(int signal) { stop = 1; }

static void *works(void *unused) {
	while (!stop) {
		getppid();
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	return unused;
}

int main(void) {
	pthread_t threads[50];
	signal(SIGTERM, told);
	for (int i = 0; i < 50; i++)
		pthread_create(&threads[i], NULL, works, NULL);
	write(1, "r", 1);
	for (int i = 0; i < 50; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
