// A tree of processes whose calls are the same in every run: fork, vfork, and
// exec of itself's end and of another program.
#define _GNU_SOURCE
#include <sys/wait.h>
#include <unistd.h>

void work(int times);

static void all(void) {
	getppid();
	work(10);
}

int main(void) {
	int status;
	all();
	pid_t child = fork();
	if (child == 0) {
		all();
		pid_t grandchild = fork();
		if (grandchild == 0) {
			all();
			execl("/bin/true", "true", (char *)0);
			_exit(1);
		}
		waitpid(grandchild, &status, 0);
		_exit(0);
	}
	waitpid(child, &status, 0);
	child = vfork();
	if (child == 0) {
		execl("/bin/true", "true", (char *)0);
		_exit(1);
	}
	waitpid(child, &status, 0);
	return 0;
}
