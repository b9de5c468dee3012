package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead/internal/attribution"
	"bulkhead/internal/testenv"
)

// traceInVM traces a static program, a dynamic one and one that enters by int 0x80; the documents follow, each behind its
// status.
const traceInVM = `#!/bin/sh
for program in static dynamic compat; do
	/bulkhead trace --out /tmp/$program.json -- /$program >/dev/null
	echo "status $?"
	cat /tmp/$program.json
done
# A kernel without BTF, as far as a program can tell: /sys is not mounted.
umount /sys/kernel/security /sys/kernel/tracing /sys/fs/bpf /sys/fs/cgroup
umount /sys
/bulkhead trace -- /static
echo "status $?"
`

const vmLibrary = `
#include <unistd.h>
int parents(void) { return getppid() + getppid() + getppid(); }
`

const vmProgram = `
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
int parents(void);
static void *thread(void *unused) { getuid(); return unused; }
int main(void)
{
	pthread_t t;
	pthread_create(&t, 0, thread, 0);
	pthread_join(t, 0);
	printf("%d\n", parents());
	return 0;
}
`

// TestTraceInVM traces on the kernels of Debian.
func TestTraceInVM(t *testing.T) {
	if testing.Short() {
		t.Skip("booting a virtual machine takes seconds: not run with -short")
	}
	dir := t.TempDir()
	files := buildForVM(t, dir)
	for _, version := range testenv.Kernels {
		t.Run(string(version), func(t *testing.T) {
			output, exit := testenv.BootVM(t, version, files, []string{"/run.sh"}, 5*time.Minute)
			parts := strings.Split(output, "status ")
			if exit != 0 || len(parts) != 5 {
				t.Fatalf("exit status %d:\n%s", exit, output)
			}
			static, dynamic := readPart(t, parts[1]), readPart(t, parts[2])
			checkVM(t, static, map[string]uint64{"getppid": 3, "getuid": 1, "write": 1}, nil)
			checkVM(t, dynamic, map[string]uint64{"getuid": 1, "write": 1}, map[string]uint64{"getppid": 3})
			checkVM(t, readPart(t, parts[3]), map[string]uint64{"i386:getpid": 3}, nil)
			if !strings.Contains(parts[3], "bulkhead: btf is not supported") || !strings.HasPrefix(parts[4], "125\n") {
				t.Errorf("without BTF:\n%s", output[strings.LastIndex(output, "}")+1:])
			}
		})
	}
}

func buildForVM(t *testing.T, dir string) map[string]string {
	t.Helper()
	for name, content := range map[string]string{"lib.c": vmLibrary, "main.c": vmProgram, "run.sh": traceInVM} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	gcc := testenv.Tool(t, "gcc")
	compat, err := filepath.Abs("../../internal/trace/testdata/compat.c")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{
		{"-static", "-pthread", "-o", "static", "main.c", "lib.c"},
		{"-static", "-o", "compat", compat},
		{"-fPIC", "-shared", "-o", "libparents.so", "lib.c"},
		{"-pthread", "-o", "dynamic", "main.c", "-L.", "-lparents", "-Wl,-rpath,/lib"},
	} {
		build := exec.Command(gcc, append([]string{"-O2"}, command...)...)
		build.Dir = dir
		if said, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", command, err, said)
		}
	}
	files := map[string]string{
		"/bulkhead":          testenv.BuildProgram(t, "cmd/bulkhead"),
		"/lib/libparents.so": filepath.Join(dir, "libparents.so"),
	}
	for _, name := range []string{"static", "dynamic", "compat", "run.sh"} {
		files["/"+name] = filepath.Join(dir, name)
	}
	for _, library := range []string{"/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"} {
		files[library] = library
	}
	return files
}

// readPart reads a document that follows its status.
func readPart(t *testing.T, part string) *attribution.Program {
	t.Helper()
	status, rest, _ := strings.Cut(part, "\n")
	end := strings.LastIndex(rest, "}")
	if status != "0" || end < 0 {
		t.Fatalf("trace ended with status %s:\n%s", status, rest)
	}
	d, err := attribution.Read(strings.NewReader(rest[:end+1]))
	if err != nil {
		t.Fatalf("%v:\n%s", err, part)
	}
	if len(d.Programs) != 1 {
		t.Fatalf("%d programs, want 1", len(d.Programs))
	}
	return &d.Programs[0]
}

// checkVM checks calls of the program itself and of its library.
func checkVM(t *testing.T, p *attribution.Program, own, library map[string]uint64) {
	t.Helper()
	if !p.Complete {
		t.Errorf("%s is not complete: %+v", p.Path, p.Losses)
	}
	for compartment, calls := range map[string]map[string]uint64{attribution.ObjectName(p.Path): own, "libparents.so": library} {
		counts := map[string]uint64{}
		for _, c := range p.Compartments {
			for _, s := range c.Syscalls {
				if c.Name == compartment {
					counts[s.Label(p.Arch)] += s.Count
				}
			}
		}
		for call, want := range calls {
			if counts[call] != want {
				t.Errorf("%s: %s made %s %d times, want %d", p.Path, compartment, call, counts[call], want)
			}
		}
	}
}
