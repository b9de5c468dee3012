/* two WHO CALL FILE...: make system calls one after the other: as liba, as libb, as liba through libb (ab), as libb through
 * liba (ba). Prints the errno of each on a line. */
#include <stdio.h>
#include <string.h>

int a_call(const char *what, const char *file);
int b_call(const char *what, const char *file);
int a_through(int (*call)(const char *, const char *), const char *what, const char *file);
int b_through(int (*call)(const char *, const char *), const char *what, const char *file);

int main(int argc, char **argv)
{
	for (int i = 1; i + 2 < argc; i += 3) {
		const char *what = argv[i + 1], *file = argv[i + 2];
		int err = -1;

		if (!strcmp(argv[i], "a"))
			err = a_call(what, file);
		if (!strcmp(argv[i], "b"))
			err = b_call(what, file);
		if (!strcmp(argv[i], "ab"))
			err = a_through(b_call, what, file);
		if (!strcmp(argv[i], "ba"))
			err = b_through(a_call, what, file);
		printf("%d\n", err);
	}
	return 0;
}
