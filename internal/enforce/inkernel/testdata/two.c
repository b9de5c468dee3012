/* two WHO CALL [FILE]: make a system call as liba, as libb, or as liba through libb (ba: libb calls liba). */
#include <stdio.h>
#include <string.h>

int a_call(const char *what, const char *file);
int b_call(const char *what, const char *file);
int a_through(int (*call)(const char *, const char *), const char *what, const char *file);
int b_through(int (*call)(const char *, const char *), const char *what, const char *file);

int main(int argc, char **argv)
{
	const char *file = argc > 3 ? argv[3] : "/bulkhead-no-such-file";
	int err = -1;

	if (!strcmp(argv[1], "a"))
		err = a_call(argv[2], file);
	if (!strcmp(argv[1], "b"))
		err = b_call(argv[2], file);
	if (!strcmp(argv[1], "ab"))
		err = a_through(b_call, argv[2], file);
	if (!strcmp(argv[1], "ba"))
		err = b_through(a_call, argv[2], file);
	printf("%d\n", err);
	return 0;
}
