// The 32-bit entry into the kernel: its calls are named by the i386 table.
//
// want: PROGRAM i386:getpid 3 via= chain=PROGRAM frames=compat,main
__attribute__((noinline)) static void compat(void) {
	long result = 20; // i386's getpid
	__asm__ volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
}

int main(void) {
	for (int i = 0; i < 3; i++)
		compat();
	return 0;
}
