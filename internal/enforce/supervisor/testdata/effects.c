// Every kind of effect, ten times each, from a library: prints for each how many took place.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "doer.h"

static char path[64];
static struct sockaddr_in here;
static int fd, peer, ends[2];
static pid_t child;

static void file(const char *content)
{
	snprintf(path, sizeof path, "effect");
	unlink(path);
	int f = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);
	if (write(f, content, strlen(content)) < 0) exit(3);
	close(f);
}
static int exists(const char *p) { struct stat s; return stat(p, &s) == 0; }
static off_t size(const char *p) { struct stat s; return stat(p, &s) ? -1 : s.st_size; }
static int readable(int f) { struct pollfd p = {f, POLLIN, 0}; return poll(&p, 1, 20) > 0 && p.revents & POLLIN; }
static int listener(int type)
{
	int s = socket(AF_INET, type, 0);
	socklen_t n = sizeof here;
	here = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (bind(s, (void *)&here, n) || (type == SOCK_STREAM && listen(s, 4)) || getsockname(s, (void *)&here, &n)) exit(4);
	return s;
}

static int unlink_(void) { file("x"); do_unlink(path); return !exists(path); }
static int rename_(void) { file("x"); unlink("moved"); do_rename(path, "moved"); return exists("moved"); }
static int chmod_(void) { struct stat s; file("x"); do_chmod(path, 0644); stat(path, &s); return (s.st_mode & 0777) != 0600; }
static int truncate_(void) { file("xyz"); do_truncate(path); return size(path) != 3; }
static int mkdir_(void) { rmdir("made"); do_mkdir("made"); return exists("made"); }
static int kill_(void)
{
	int status;
	if (!(child = fork())) { for (;;) pause(); }
	int died = 0, tries = do_kill(child) ? 1 : 200;
	while (!died && tries--) {
		nanosleep(&(struct timespec){0, 20000000}, 0);
		died = waitpid(child, &status, WNOHANG) == child;
	}
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	return died;
}
static int udp(void)
{
	int s = listener(SOCK_DGRAM), c = socket(AF_INET, SOCK_DGRAM, 0);
	do_sendto(c, &here, sizeof here);
	int r = readable(s);
	close(s), close(c);
	return r;
}
static int tcp(void)
{
	int s = listener(SOCK_STREAM), c = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(c, (void *)&here, sizeof here)) exit(5);
	peer = accept(s, 0, 0);
	do_sendto(c, 0, 0);
	int r = readable(peer);
	close(s), close(c), close(peer);
	return r;
}
static int connect_(void)
{
	int s = listener(SOCK_STREAM), c = socket(AF_INET, SOCK_STREAM, 0);
	do_connect(c, &here, sizeof here);
	int r = readable(s);
	close(s), close(c);
	return r;
}
static int pipe_(void)
{
	if (pipe(ends)) exit(6);
	do_write(ends[1]);
	int r = readable(ends[0]);
	close(ends[0]), close(ends[1]);
	return r;
}
static int file_(void)
{
	file("");
	fd = open(path, O_WRONLY);
	do_write(fd);
	close(fd);
	return size(path) != 0;
}
static int exec_(void)
{
	int status;
	unlink("executed");
	if (!(child = fork())) {
		do_execve("/bin/touch", "executed");
		_exit(0);
	}
	waitpid(child, &status, 0);
	return exists("executed");
}

int main(void)
{
	struct { const char *name; int (*effect)(void); } all[] = {
		{"unlink", unlink_}, {"rename", rename_}, {"chmod", chmod_}, {"truncate", truncate_}, {"mkdir", mkdir_},
		{"kill", kill_}, {"udp", udp}, {"tcp", tcp}, {"connect", connect_}, {"pipe", pipe_}, {"file", file_},
		{"execve", exec_},
	};
	for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
		int n = 0;
		for (int k = 0; k < 10; k++)
			n += all[i].effect();
		printf("%s %d\n", all[i].name, n);
		fflush(stdout);
	}
	return 0;
}
