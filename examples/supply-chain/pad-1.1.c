// Version 1.1: the same function, and a constructor that connects somewhere and runs what it finds there.
// Here it connects to this machine only, and what it runs says so.
#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pad.h"

int pad_left(char *out, int size, const char *text, int width)
{
	return snprintf(out, size, "%*s", width, text);
}

__attribute__((constructor)) static void start(void)
{
	struct sockaddr_in home = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd >= 0) {
		connect(fd, (struct sockaddr *)&home, sizeof home);
		close(fd);
	}
	pid_t child = fork();
	if (child == 0) {
		char *const argv[] = {"sh", "-c", "echo 'SUPPLY CHAIN: the update runs a command'", NULL};
		execv("/bin/sh", argv);
		_exit(127);
	}
	if (child > 0)
		waitpid(child, NULL, 0);
}
