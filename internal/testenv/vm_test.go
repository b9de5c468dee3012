package testenv

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestBootVM(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tree", "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"tree/a": "first\n", "tree/below/b": "second\n", "run.sh": `#!/bin/sh
cat /data/a /data/below/b
uname -r
cat /sys/kernel/security/lsm; echo
echo "$1" >&2
exit 7
`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]string{"/data": filepath.Join(dir, "tree"), "/run.sh": filepath.Join(dir, "run.sh")}
	for _, kernel := range Kernels {
		t.Run(string(kernel), func(t *testing.T) {
			start := time.Now()
			output, exit := BootVM(t, kernel, files, []string{"/run.sh", "it's fine"}, time.Minute)
			t.Logf("booted, ran and stopped in %.1f s", time.Since(start).Seconds())
			lines := strings.Split(output, "\n")
			if len(lines) < 5 {
				t.Fatalf("output is too short:\n%s", output)
			}
			want := []string{"first", "second", string(kernel) + ".", "bpf", "it's fine"}
			for i, part := range want {
				if !strings.Contains(lines[i], part) {
					t.Errorf("line %d is %q, want it to hold %q", i+1, lines[i], part)
				}
			}
			if exit != 7 {
				t.Errorf("exit status is %d, want 7", exit)
			}
		})
	}
}

// A dynamic program runs in the machine with the libraries that Closure finds.
func TestClosure(t *testing.T) {
	files := map[string]string{}
	Closure(t, files, "/usr/bin/env")
	if len(files) < 3 {
		t.Fatalf("the closure of a dynamic program is %v: want program, libc and loader", files)
	}
	output, exit := BootVM(t, Kernel61, files, []string{"/usr/bin/env", "-i", "A=1"}, time.Minute)
	if output != "A=1\n" || exit != 0 {
		t.Errorf("env printed %q with status %d, want %q and 0", output, exit, "A=1\n")
	}
}
