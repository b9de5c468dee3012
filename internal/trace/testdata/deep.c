// More frames than are walked (1024): the origin is known all the same, and the chain is a loss.
//
// losses: broken_stacks=1
// want: PROGRAM getppid 1 frames=recurses,recurses depth=1024
#include <unistd.h>

__attribute__((noinline)) int recurses(int depth) {
	volatile int below = depth == 0 ? getppid() : recurses(depth - 1);
	return below;
}

int main(void) { return recurses(2000) == 0; }
