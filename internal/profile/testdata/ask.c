/* Asks the kernel what a filter says to each call of amd64: ask FILTER LAST prints "NUMBER ERRNO" lines, errno 0 for a
 * call that is let through. None is made: a filter installed before fails those whose last argument is the magic number,
 * and of two errors the kernel takes that of the newer filter. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* The kernel does not ask filters about these two, and kills who makes them but for its own trampolines. */
enum { URETPROBE = 335, UPROBE = 336 };

#define MAGIC 0x4d414749

static void install(struct sock_filter *filter, size_t n)
{
	struct sock_fprog program = {n, filter};
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
		perror("seccomp");
		exit(1);
	}
}

int main(int argc, char **argv)
{
	static struct sock_filter filter[BPF_MAXINSNS];
	struct sock_filter probe[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MAGIC, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EXFULL),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	FILE *f = argc == 3 ? fopen(argv[1], "rb") : NULL;
	if (!f)
		return 2;
	size_t n = fread(filter, sizeof *filter, BPF_MAXINSNS, f);
	int last = atoi(argv[2]);
	int *answers = mmap(NULL, (last + 1) * sizeof *answers, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t child = fork();
	if (child == 0) {
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		/* The filter may deny the second prctl, so the probe is the first. */
		install(probe, sizeof probe / sizeof *probe);
		install(filter, n);
		for (int nr = 0; nr <= last; nr++)
			answers[nr] = nr == URETPROBE || nr == UPROBE ? -1 : syscall(nr, 0, 0, 0, 0, 0, MAGIC) < 0 ? errno : -1;
		syscall(SYS_exit_group, 0, 0, 0, 0, 0, 0); /* with a last argument that is not the magic number */
	}
	int status;
	waitpid(child, &status, 0);
	if (status != 0)
		return 1;
	for (int nr = 0; nr <= last; nr++)
		printf("%d %d\n", nr, answers[nr] == EXFULL ? 0 : answers[nr]);
	return 0;
}
