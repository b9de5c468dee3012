// The other program image of processes.c: with an argument it first execs itself without one.
#define _GNU_SOURCE
#include <sys/times.h>
#include <unistd.h>

int main(int argc, char **argv) {
	struct tms t;
	char *again[] = {argv[0], 0};
	times(&t);
	if (argc > 1)
		execve(argv[0], again, environ);
	getegid();
	return 0;
}
