// Usage: execs WAY LISTED UNLISTED: tries to get UNLISTED, which is touch(1), to make the file "made".
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char **arg;
static volatile int over;

static int run(int by_fd, const char *path)
{
	int status;
	char *argv[] = {"touch", "made", 0}, *env[] = {0};
	pid_t p = fork();
	if (p == 0) {
		if (by_fd)
			fexecve(open(path, O_RDONLY | O_CLOEXEC), argv, env);
		else
			execve(path, argv, env);
		_exit(111);
	}
	waitpid(p, &status, 0);
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// The link leads to either, in turn.
static void *flip(void *unused)
{
	for (int i = 0; !over; i++) {
		unlink("new");
		if (symlink(arg[2 + i % 2], "new") || rename("new", "link"))
			return 0;
	}
	return unused;
}

static void *from_thread(void *unused)
{
	char *argv[] = {"touch", "made", 0}, *env[] = {0};
	execve("link", argv, env);
	_exit(112);
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t t;
	time_t end = time(0) + 3;
	int ok = 0;
	arg = argv;
	if (argc != 4)
		return 2;
	if (!strcmp(argv[1], "path") || !strcmp(argv[1], "fd")) {
		ok = run(argv[1][0] == 'f', argv[2]);
		run(argv[1][0] == 'f', argv[3]);
	} else {
		if (symlink(argv[2], "link"))
			return 3;
		pthread_create(&t, 0, flip, 0);
		while (time(0) < end)
			if (!strcmp(argv[1], "race")) {
				ok |= run(0, "link");
			} else {
				int status;
				pid_t p = fork();
				if (p == 0) {
					pthread_t other;
					pthread_create(&other, 0, from_thread, 0);
					for (;;)
						getppid();
				}
				waitpid(p, &status, 0);
				ok |= WIFEXITED(status) && WEXITSTATUS(status) == 0;
			}
		over = 1;
		pthread_join(t, 0);
	}
	if (ok)
		printf("listed ok\n");
	return 0;
}
