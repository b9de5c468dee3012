// filtered FILTER COMMAND [ARG...]: run a command under one seccomp filter, as bulkhead export --format bpf writes it.
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static struct sock_filter filter[4096];
	struct sock_fprog program = { .filter = filter };
	FILE *file = argc > 2 ? fopen(argv[1], "r") : NULL;

	if (file)
		program.len = fread(filter, sizeof(*filter), 4096, file);
	if (!program.len || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		fprintf(stderr, "filtered: %s: %s\n", argc > 1 ? argv[1] : "filtered FILTER COMMAND", strerror(errno));
	else
		execvp(argv[2], argv + 2);
	return 127;
}
