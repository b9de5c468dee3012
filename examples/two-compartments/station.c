// A weather station's collector: reads measurement files that others send, writes a log, rotates it.
#include <stdio.h>

#include "rotate.h"
#include "series.h"

static int log_reading(const char *name, char *const labels[], void *user)
{
	fprintf(user, "%s", name ? name : "?");
	for (; *labels; labels++)
		fprintf(user, " %s", *labels);
	return fprintf(user, "\n") < 0 ? -1 : 0;
}

int main(int argc, char **argv)
{
	FILE *log = fopen("readings.log", "a");
	if (!log) {
		perror("readings.log");
		return 1;
	}
	for (int i = 1; i < argc; i++) {
		int n = series_read(argv[i], log_reading, log);
		if (n < 0)
			printf("%s: not a series\n", argv[i]);
		else
			printf("%s: %d readings\n", argv[i], n);
		fflush(stdout);
	}
	fclose(log);
	if (rotate_log("readings.log", "echo the log has been rotated") < 0) {
		printf("the log could not be rotated\n");
		return 1;
	}
	return 0;
}
