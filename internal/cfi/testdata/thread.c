// A thread blocks; the main thread does nothing but wait for it.
#include <pthread.h>
#include <unistd.h>
volatile int sink;
__attribute__((noinline)) int inner(int n) { pause(); return n + sink; }
void *run(void *arg) { sink = inner(1); return arg; }
int main(int argc, char **argv) {
	pthread_t t;
	pthread_create(&t, NULL, run, NULL);
	pthread_join(t, NULL);
	return sink;
}
