#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/times.h>
#include <unistd.h>

#define KEEP() __asm__ volatile("" ::: "memory")

void inner_ppid(void);
void inner_uid(void);
void inner_calls(void (*function)(void));

void outer_ppid(int times) {
	while (times-- > 0)
		inner_ppid();
	KEEP();
}

void outer_calls_back(void (*function)(void), int times) {
	while (times-- > 0)
		function();
	KEEP();
}

void outer_passes(void (*function)(void)) {
	inner_calls(function);
	KEEP();
}

// A tail call leaves no frame of this library.
__asm__(".text\n"
	".globl outer_jumps\n"
	".type outer_jumps, @function\n"
	"outer_jumps:\n"
	"	.cfi_startproc\n"
	"	jmp inner_uid@PLT\n"
	"	.cfi_endproc\n"
	".size outer_jumps, .-outer_jumps\n");

__attribute__((constructor)) static void outer_constructor(void) {
	getgid();
	KEEP();
}

__attribute__((destructor)) static void outer_destructor(void) {
	getegid();
	KEEP();
}

static void *outer_thread(void *unused) {
	struct tms t;
	times(&t);
	KEEP();
	return unused;
}

void outer_starts_thread(void) {
	pthread_t thread;
	pthread_create(&thread, NULL, outer_thread, NULL);
	pthread_join(thread, NULL);
}

static int outer_compare(const void *a, const void *b) {
	getpgid(0);
	return *(const char *)a - *(const char *)b;
}

void outer_sorts(void) {
	char letters[] = {'b', 'a'};
	qsort(letters, 2, 1, outer_compare);
	KEEP();
}

// The write leaves through a buffered stream, deep inside libc.
void outer_writes(void) {
	FILE *null = fopen("/dev/null", "w");
	setvbuf(null, NULL, _IONBF, 0);
	putc('x', null);
	KEEP();
}
