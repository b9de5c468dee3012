// outer jumps to middle (-O2), which therefore is the one that returns to main.
#include <unistd.h>
volatile int sink;
__attribute__((noinline)) int inner(int n) { pause(); return n + sink; }
__attribute__((noinline)) int middle(int n) { int x = inner(n); return x + sink; }
__attribute__((noinline)) int outer(int n) { sink = n; return middle(n + 1); }
int main(int argc, char **argv) { return outer(argc) + sink; }
