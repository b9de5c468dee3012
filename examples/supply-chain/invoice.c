// A program that uses the library.
#include <stdio.h>

#include "pad.h"

int main(void)
{
	char line[64];
	pad_left(line, sizeof line, "19.90", 12);
	puts(line);
	return 0;
}
