/* Answers as a library OS' shim would: prints "PROGRAM COMPARTMENT NUMBER" for each call that is allowed. */
#include <stdio.h>

#include "policy.h"

int main(void)
{
	for (unsigned c = 0; c < APP_COMPARTMENTS + 1; c++)
		for (unsigned long nr = 0; nr < 1000; nr++)
			if (app_allows(c, nr))
				printf("app %u %lu\n", c, nr);
	for (unsigned c = 0; c < HELPER_COMPARTMENTS; c++)
		for (unsigned long nr = 0; nr < 1000; nr++)
			if (helper_allows(c, nr))
				printf("helper %u %lu\n", c, nr);
	return APP_YOUNG == 332 && APP_APP == 1 ? 0 : 1;
}
