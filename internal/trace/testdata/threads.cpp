// Threads with exceptions: system calls from destructors while the stack unwinds, and from handlers.
//
// want: PROGRAM getppid 80 via=getppid chain=PROGRAM,libstdc++.so.6.0.30 frames=Guard::~Guard,middle,worker
// want: PROGRAM getuid 40 via=getuid chain=PROGRAM,libstdc++.so.6.0.30 frames=worker
// want: PROGRAM geteuid 40 via=geteuid chain=PROGRAM,libstdc++.so.6.0.30 frames=bottom,middle,worker
#include <stdexcept>
#include <thread>
#include <unistd.h>
#include <vector>

struct Guard {
	int depth;
	__attribute__((noinline)) ~Guard() {
		getppid();
		__asm__ volatile("");
	}
};

__attribute__((noinline)) void bottom(int n) {
	geteuid();
	if (n >= 0)
		throw std::runtime_error("thrown");
}

__attribute__((noinline)) void middle(int n) {
	Guard first{1};
	Guard second{2};
	bottom(n);
}

__attribute__((noinline)) void worker(int n) {
	for (int i = 0; i < 10; i++) {
		try {
			middle(i);
		} catch (const std::exception &) {
			getuid();
		}
	}
}

int main() {
	std::vector<std::thread> threads;
	for (int i = 0; i < 4; i++)
		threads.emplace_back(worker, i);
	for (auto &t : threads)
		t.join();
}
