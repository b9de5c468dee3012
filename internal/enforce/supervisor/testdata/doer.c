#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "doer.h"

// The volatile keeps each call from being the last thing that its function does: its frame stays.
static volatile long result;
void do_unlink(const char *p) { result = unlink(p); }
void do_rename(const char *p, const char *q) { result = rename(p, q); }
void do_chmod(const char *p, int mode) { result = chmod(p, mode); }
void do_truncate(const char *p) { result = truncate(p, 0); }
void do_mkdir(const char *p) { result = mkdir(p, 0755); }
int do_kill(int pid) { return result = kill(pid, SIGKILL); }
void do_sendto(int fd, void *to, int n) { result = sendto(fd, "x", 1, MSG_NOSIGNAL, to, n); }
void do_connect(int fd, void *to, int n) { result = connect(fd, to, n); }
void do_write(int fd) { result = write(fd, "x", 1); }
void do_execve(const char *p, const char *arg)
{
	char *argv[] = {(char *)p, (char *)arg, 0};
	result = execve(p, argv, 0);
}
