// Version 1.0 of a small library.
#include <stdio.h>

#include "pad.h"

int pad_left(char *out, int size, const char *text, int width)
{
	return snprintf(out, size, "%*s", width, text);
}
