// Frames whose size is only known at run time: alloca, a variable array, an over-aligned variable (DRAP).
#include <alloca.h>
#include <unistd.h>
#include <string.h>
volatile int sink;
__attribute__((noinline)) int inner(int n) {
	char *p = alloca(n * 64);
	memset(p, n, n * 64);
	pause();
	return p[n];
}
__attribute__((noinline)) int middle(int n) {
	char array[n * 100];
	memset(array, n, n * 100);
	sink = inner(n);
	return array[n] + sink;
}
__attribute__((noinline)) int outer(int n) {
	char aligned[256] __attribute__((aligned(64)));
	char *p = alloca(n * 16);
	memset(aligned, n, sizeof aligned);
	memset(p, n, n * 16);
	sink = middle(n);
	return aligned[n] + p[n] + sink;
}
int main(int argc, char **argv) { return outer(argc) + sink; }
