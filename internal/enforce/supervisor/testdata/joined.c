// The target of --pid: says that it runs, and some time later lets its library make a directory.
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "doer.h"

static void *idle(void *unused)
{
	for (;;)
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, 0);
	return unused;
}

int main(void)
{
	struct stat s;
	pthread_t t;
	for (int i = 0; i < 8; i++)
		pthread_create(&t, 0, idle, 0);
	do_mkdir("early");
	if (stat("early", &s) || write(1, ".", 1) != 1)
		return 3;
	for (int i = 0; i < 300; i++)
		nanosleep(&(struct timespec){.tv_nsec = 10000000}, 0);
	do_mkdir("late");
	return stat("late", &s) == 0;
}
