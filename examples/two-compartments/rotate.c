#include "rotate.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

int rotate_log(const char *path, const char *hook)
{
	char old[4096];
	if (snprintf(old, sizeof old, "%s.1", path) >= (int)sizeof old || rename(path, old) < 0)
		return -1;
	pid_t child = fork();
	if (child == 0) {
		char *const argv[] = {"sh", "-c", (char *)hook, NULL};
		execv("/bin/sh", argv);
		_exit(127);
	}
	int status;
	if (child < 0 || waitpid(child, &status, 0) < 0)
		return -1;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}
