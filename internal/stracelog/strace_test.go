package stracelog

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulkhead/internal/attribution"
)

// needStrace skips where strace is missing or may not trace.
func needStrace(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("strace", "-f", "-k", "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		t.Skipf("strace -k does not work here: %v: %s", err, out)
	}
}

// buildFixture compiles testdata/processes.c and the library it calls, without
// tail calls: they leave no frame to charge.
func buildFixture(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, args := range [][]string{
		{"-O2", "-fno-optimize-sibling-calls", "-shared", "-fPIC", "-o", filepath.Join(dir, "libwork.so"), "testdata/work.c"},
		{"-O2", "-fno-optimize-sibling-calls", "-o", filepath.Join(dir, "processes"), "testdata/processes.c", "-L" + dir, "-lwork", "-Wl,-rpath," + dir},
	} {
		if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
			t.Fatalf("gcc %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	return filepath.Join(dir, "processes")
}

// TestCountsEqualStrace compares with strace -c, which counts the first execve,
// made by strace, and does not count calls that do not return.
func TestCountsEqualStrace(t *testing.T) {
	needStrace(t)
	program := buildFixture(t)
	log, table := filepath.Join(t.TempDir(), "log"), filepath.Join(t.TempDir(), "table")
	for _, args := range [][]string{{"-f", "-k", "-o", log, program}, {"-f", "-c", "-o", table, program}} {
		if out, err := exec.Command("strace", args...).CombinedOutput(); err != nil {
			t.Fatalf("strace %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := Read(f, Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]uint64)
	for _, p := range d.Programs {
		for _, c := range p.Compartments {
			for _, s := range c.Syscalls {
				got[s.Label(p.Arch)] += s.Count
			}
		}
	}
	got["execve"]++
	delete(got, "exit_group")
	if diff := cmp.Diff(readTable(t, table), got); diff != "" {
		t.Errorf("-strace +ours:\n%s", diff)
	}
	checkFixture(t, d)
}

// checkFixture: who makes the calls that no C library makes by itself.
func checkFixture(t *testing.T, d *attribution.Document) {
	t.Helper()
	var paths []string
	for _, p := range d.Programs {
		paths = append(paths, filepath.Base(p.Path))
		if !p.Complete {
			t.Errorf("%s: losses %+v", p.Path, p.Losses)
		}
	}
	if diff := cmp.Diff([]string{"processes", "true"}, paths); diff != "" {
		t.Fatalf("programs: -want +got:\n%s", diff)
	}
	count := func(compartment, name string) uint64 {
		for _, s := range d.Programs[0].Compartment(compartment).Syscalls {
			if s.Name == name {
				return s.Count
			}
		}
		return 0
	}
	for _, want := range []struct {
		compartment, name string
		count             uint64
	}{{"libwork.so", "getppid", 30}, {"libwork.so", "setpriority", 3}, {"processes", "getppid", 3}, {"processes", "vfork", 1}, {"processes", "execve", 2}} {
		if got := count(want.compartment, want.name); got != want.count {
			t.Errorf("%s %s: %d calls, want %d", want.compartment, want.name, got, want.count)
		}
	}
}

// readTable reads what strace -c prints.
func readTable(t *testing.T, path string) map[string]uint64 {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]uint64)
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 || strings.HasSuffix(lines.Text(), "total") {
			continue
		}
		n, err := strconv.ParseUint(fields[3], 10, 64)
		if err != nil {
			continue // a head line
		}
		counts[fields[len(fields)-1]] = n
	}
	return counts
}
