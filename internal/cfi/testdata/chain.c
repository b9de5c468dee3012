// main -> outer -> middle -> inner -> a blocking system call; the frames have different sizes and saved registers.
#include <unistd.h>
#include <string.h>
volatile int sink;
__attribute__((noinline)) int inner(int n) {
	char buf[300];
	memset(buf, n, sizeof buf);
	pause();
	sink = buf[n];
	return n + 1;
}
__attribute__((noinline)) int middle(int a, int b, int c, int d, int e, int f) {
	int x = inner(a + b);
	sink = x + c;
	x += inner(d + e) * f;
	return x + a * b * c * d;
}
__attribute__((noinline)) int outer(int n) {
	int x = middle(n, 2, 3, 4, 5, 6);
	return sink + x;
}
int main(int argc, char **argv) { return outer(argc) + sink; }
