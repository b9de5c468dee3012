// Blocks in the system call that the first argument names, through libc's buffered and plain wrappers.
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
volatile int sink;
__attribute__((noinline)) int block(const char *how) {
	int p[2];
	char buf[4096];
	sem_t sem;
	struct timespec day = {86400, 0};
	if (pipe(p) != 0)
		return 1;
	memset(buf, 0, sizeof buf);
	if (strcmp(how, "read") == 0)
		sink = read(p[0], buf, 1);
	else if (strcmp(how, "write") == 0)
		while (write(p[1], buf, sizeof buf) > 0)
			sink++;
	else if (strcmp(how, "printf") == 0) {
		FILE *f = fdopen(p[1], "w");
		while (fprintf(f, "%s %d %f\n", how, sink, 1.5) > 0)
			sink++;
	} else if (strcmp(how, "nanosleep") == 0)
		nanosleep(&day, NULL);
	else if (strcmp(how, "futex") == 0) {
		sem_init(&sem, 0, 0);
		sem_wait(&sem);
	}
	return sink;
}
int main(int argc, char **argv) { return block(argv[1]) + sink; }
