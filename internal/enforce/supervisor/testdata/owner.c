// The library that may make directories.
#include <sys/stat.h>

static volatile long result;
void owner(const char *name) { result = mkdir(name, 0755); }

// Places to return to: one that no call is before, and one behind a call. Both go on at r12.
__asm__(".globl landing; .type landing, @function; nop; nop; nop; nop; nop; nop; nop; nop; landing: .cfi_startproc; jmp *%r12; .cfi_endproc; .size landing, .-landing\n"
	".globl call_landing; .type call_landing, @function; before: .cfi_startproc; call landing; call_landing: jmp *%r12; .cfi_endproc; .size call_landing, .-call_landing");
