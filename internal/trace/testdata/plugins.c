// Libraries that come and go while the program runs. The first argument is the folder of the plugins,
// a second leaves their files alone.
//
// want: plugin_a.so getppid 3 via=getppid chain=plugin_a.so,PROGRAM frames=plugin_call,uses,main
// want: plugin_b.so getuid 5 via=getuid chain=plugin_b.so,PROGRAM frames=plugin_call,uses,main
// want: plugin_a.so getpgid 1 via=getpgid chain=plugin_a.so,PROGRAM frames=plugin_starts,uses,main
// want: plugin_b.so getsid 1 via=getsid chain=plugin_b.so,PROGRAM frames=plugin_starts,uses,main
// want: gone.so geteuid 2 via=geteuid chain=gone.so,PROGRAM frames=plugin_call,main
// want: replaced.so times 2 via=times chain=replaced.so,PROGRAM frames=plugin_call,main
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *load(const char *folder, const char *name, void (**call)(void)) {
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	void *library = dlopen(path, RTLD_NOW);
	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		exit(1);
	}
	*call = (void (*)(void))dlsym(library, "plugin_call");
	return library;
}

__attribute__((noinline)) static void uses(const char *folder, const char *name, int times) {
	void (*call)(void);
	void *library = load(folder, name, &call);
	while (times-- > 0)
		call();
	dlclose(library);
}

// A process that lives on while its files change. The tracer reads a file when it is mapped, but not before the program
// goes on; what is gone by then keeps its name and loses its rows.
static void pause_a_moment(void) { usleep(200000); }

static int leave_alone;

static void move(const char *folder, const char *from, const char *to) {
	char old[4096], new[4096];
	if (leave_alone)
		return;
	snprintf(old, sizeof old, "%s/%s", folder, from);
	snprintf(new, sizeof new, "%s/%s", folder, to);
	if (to ? rename(old, new) : unlink(old)) {
		perror(old);
		exit(1);
	}
}

int main(int argc, char **argv) {
	void (*gone)(void), (*replaced)(void);
	const char *folder = argv[1];
	leave_alone = argc > 2;

	// B comes to where A was.
	uses(folder, "plugin_a.so", 3);
	uses(folder, "plugin_b.so", 5);

	load(folder, "gone.so", &gone);
	pause_a_moment();
	move(folder, "gone.so", NULL);
	gone();
	gone();

	load(folder, "replaced.so", &replaced);
	pause_a_moment();
	move(folder, "plugin_a.so", "replaced.so");
	replaced();
	replaced();
	return 0;
}
