package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"bulkhead/internal/kernel"
	"bulkhead/internal/testenv"
)

var canTrace = sync.OnceValue(func() error { return kernel.Require(kernel.Trace) })

func newTracer(t *testing.T, opts Options) *Tracer {
	t.Helper()
	testenv.Require(t, canTrace())
	tracer, err := NewTracer(opts)
	if err != nil {
		var refused *ebpf.VerifierError
		if errors.As(err, &refused) {
			t.Fatalf("%+v", refused)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tracer.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return tracer
}

// TestLoad loads all programs under all settings, for the verifier sees settings as constants. With -short (in a virtual
// machine, where each takes seconds) all settings off and all on have to do.
func TestLoad(t *testing.T) {
	for i := range 8 {
		if testing.Short() && i != 0 && i != 7 {
			continue
		}
		opts := Options{Follow: i&1 != 0, EveryChain: i&2 != 0, Stream: i&4 != 0}
		t.Run(fmt.Sprintf("%+v", opts), func(t *testing.T) {
			tracer := newTracer(t, opts)
			if n := tracer.Live(); n != 0 {
				t.Errorf("%d threads are traced before any was marked", n)
			}
		})
	}
}

// TestPrograms loads every program of the built-in object, also those that NewTracer does not name.
func TestPrograms(t *testing.T) {
	testenv.Require(t, canTrace())
	spec, err := loadTrace()
	if err != nil {
		t.Fatal(err)
	}
	if err := configure(spec, Options{Follow: true}); err != nil {
		t.Fatal(err)
	}
	programs, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer programs.Close()
	if len(programs.Programs) != len(spec.Programs) || len(spec.Programs) == 0 {
		t.Errorf("%d programs are loaded of %d", len(programs.Programs), len(spec.Programs))
	}
}

// TestLoadInVM loads them on the kernels of Debian.
func TestLoadInVM(t *testing.T) {
	files := map[string]string{"/test": testenv.BuildTest(t, "internal/bpf")}
	run := []string{"/bin/env", "CI=1", "/test", "-test.v", "-test.short", "-test.run", "^(TestLoad|TestMark|TestIdentify)$"}
	for _, version := range testenv.Kernels {
		t.Run(string(version), func(t *testing.T) {
			output, exit := testenv.BootVM(t, version, files, run, 5*time.Minute)
			if exit != 0 || !strings.Contains(output, "--- PASS: TestLoad ") {
				t.Errorf("exit status %d:\n%s", exit, output)
			}
			t.Log(output)
		})
	}
}

// TestMark marks this process, whose calls are then counted, and no longer after Detach.
func TestMark(t *testing.T) {
	tracer := newTracer(t, Options{})
	threads, err := tracer.Mark(os.Getpid(), ObjectUnknown)
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	if threads == 0 || threads > uint64(len(tasks)) {
		t.Errorf("%d threads are marked, this process has %d", threads, len(tasks))
	}
	const calls = 100
	for range calls {
		unix.Getppid()
	}
	if err := tracer.Detach(); err != nil {
		t.Fatal(err)
	}
	unix.Getppid()
	// No rows are loaded, so the calls are captured and counted by whoever walks them.
	if err := tracer.Flush(); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for r := new(Record); ; {
		err := tracer.Read(r)
		if errors.Is(err, ErrFlushed) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if EventKind(r.Kind) != EventCapture || r.Key.Nr != unix.SYS_GETPPID {
			continue
		}
		seen++
		if int(r.Pid) != os.Getpid() || r.End != WalkNoRows || r.Regs.Ip == 0 || len(r.Stack) == 0 {
			t.Errorf("capture of process %d ends by %d at %#x with %d bytes of stack", r.Pid, r.End, r.Regs.Ip, len(r.Stack))
		}
	}
	if seen != calls {
		t.Errorf("%d calls are captured, want %d", seen, calls)
	}
}

// TestMarkNothing marks what is not there.
func TestMarkNothing(t *testing.T) {
	tracer := newTracer(t, Options{})
	if threads, err := tracer.Mark(1<<30, ObjectUnknown); err != nil || threads != 0 {
		t.Errorf("marked %d threads of a process that is not there: %v", threads, err)
	}
}

// TestIdentify gives every file one number, by whatever path it is mapped.
func TestIdentify(t *testing.T) {
	tracer := newTracer(t, Options{})
	dir := t.TempDir()
	identify := func(path string) ObjectID {
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		id, err := tracer.IdentifyFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	a, b, linked := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "linked")
	for _, path := range []string{a, b} {
		if err := os.WriteFile(path, []byte("same"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(a, linked); err != nil {
		t.Fatal(err)
	}
	first := identify(a)
	if first == ObjectUnknown || first == ObjectAnonymous || first == ObjectVDSO {
		t.Errorf("a file is object %d", first)
	}
	if identify(a) != first || identify(linked) != first {
		t.Error("one file has two numbers")
	}
	if identify(b) == first {
		t.Error("two files have one number")
	}
	memory, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(memory)
	if id, err := tracer.Identify(memory); err != nil || id != ObjectAnonymous {
		t.Errorf("memory without a file is object %d: %v", id, err)
	}
}
