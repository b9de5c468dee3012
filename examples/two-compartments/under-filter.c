// Runs a command under one seccomp filter for the whole process: under-filter FILTER COMMAND [ARG...]
// FILTER is what `bulkhead export --format bpf` writes: struct sock_filter[].
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static struct sock_filter instructions[BPF_MAXINSNS];
	FILE *f = argc > 2 ? fopen(argv[1], "rb") : NULL;
	if (!f) {
		fprintf(stderr, "usage: under-filter FILTER COMMAND [ARG...]\n");
		return 2;
	}
	struct sock_fprog program = {fread(instructions, sizeof *instructions, BPF_MAXINSNS, f), instructions};
	fclose(f);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
		perror("seccomp");
		return 1;
	}
	execvp(argv[2], argv + 2);
	perror(argv[2]);
	return 127;
}
