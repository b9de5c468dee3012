// Threads and processes that make supervised calls for ever.
#include <pthread.h>
#include <unistd.h>

static void *work(void *unused)
{
	for (;;)
		getppid();
	return unused;
}

int main(void)
{
	pthread_t t;
	fork();
	for (int i = 0; i < 3; i++)
		pthread_create(&t, 0, work, 0);
	if (write(1, ".", 1) < 0)
		return 1;
	work(0);
}
