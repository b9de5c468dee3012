// A program and two libraries that call each other.
//
// want: libinner.so getppid 2 via=getppid chain=libinner.so,libouter.so,PROGRAM
// want: libinner.so getuid 1 via=getuid chain=libinner.so,PROGRAM frames=inner_uid,main
// want: PROGRAM geteuid 3 via=geteuid chain=PROGRAM,libouter.so frames=called_back,outer_calls_back,main
// want glibc: libouter.so getgid 1 via=getgid chain=libouter.so frames=outer_constructor
// want musl: libouter.so getgid 1 via=getgid chain=libouter.so,PROGRAM frames=outer_constructor
// want: libouter.so getegid 1 via=getegid chain=libouter.so,PROGRAM frames=outer_destructor
// want: libouter.so times 1 via=times chain=libouter.so frames=outer_thread
// want: libouter.so getpgid 1 via=getpgid chain=libouter.so,PROGRAM frames=outer_compare,outer_sorts,main
// want glibc: libouter.so write 1 via=putc chain=libouter.so,PROGRAM frames=outer_writes,main
// want musl: libouter.so writev 1 chain=libouter.so,PROGRAM frames=outer_writes,main
// want: PROGRAM sysinfo 1 via=syscall chain=PROGRAM,libinner.so,libouter.so frames=called_deep,inner_calls,outer_passes,main
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

void outer_ppid(int times);
void outer_calls_back(void (*function)(void), int times);
void outer_jumps(void);
void outer_starts_thread(void);
void outer_sorts(void);
void outer_writes(void);
void outer_passes(void (*function)(void));

static void called_back(void) {
	geteuid();
	__asm__ volatile("");
}

static void called_deep(void) {
	struct sysinfo info;
	syscall(SYS_sysinfo, &info);
	__asm__ volatile("");
}

int main(void) {
	outer_ppid(2);
	outer_calls_back(called_back, 3);
	outer_jumps();
	outer_starts_thread();
	outer_sorts();
	outer_writes();
	outer_passes(called_deep);
	return 0;
}
