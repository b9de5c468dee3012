// Version 1.2: the same again, hidden in an IFUNC resolver, which the loader calls before any constructor, when
// functions of other libraries may not be linked yet: it makes its system calls itself.
#include <stdio.h>
#include <sys/syscall.h>

#include "pad.h"

static long call(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

static int pad_any(char *out, int size, const char *text, int width)
{
	return snprintf(out, size, "%*s", width, text);
}

static int (*resolve(void))(char *, int, const char *, int)
{
	enum { AF_INET = 2, SOCK_STREAM = 1 };
	long fd = call(SYS_socket, AF_INET, SOCK_STREAM, 0);
	if (fd >= 0)
		call(SYS_close, fd, 0, 0);
	long child = call(SYS_fork, 0, 0, 0);
	if (child == 0) {
		char shell[] = "/bin/sh", option[] = "-c", command[] = "echo 'SUPPLY CHAIN: the update runs a command'";
		char *argv[] = {shell, option, command, 0};
		call(SYS_execve, (long)shell, (long)argv, 0);
		call(SYS_exit_group, 127, 0, 0);
	}
	if (child > 0)
		call(SYS_wait4, child, 0, 0);
	return pad_any;
}

int pad_left(char *out, int size, const char *text, int width) __attribute__((ifunc("resolve")));
