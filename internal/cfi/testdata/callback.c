// libc calls back: the comparison of qsort blocks.
#include <stdlib.h>
#include <unistd.h>
int compare(const void *a, const void *b) { pause(); return *(const int *)a - *(const int *)b; }
__attribute__((noinline)) int outer(int *v, int n) { qsort(v, n, sizeof *v, compare); return v[0]; }
int main(int argc, char **argv) {
	int v[64];
	for (int i = 0; i < 64; i++)
		v[i] = 64 - i;
	return outer(v, 64);
}
