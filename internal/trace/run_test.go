package trace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"bulkhead/internal/attribution"
	"bulkhead/internal/testenv"
)

// TestProcess attaches to a process whose threads run, begin and end meanwhile.
func TestProcess(t *testing.T) {
	opts := options(t)
	doc := attach(t, opts, exec.Command(buildBusy(t)), func() {})
	expected := readExpectations(t, source("busy.c"), "busy", "glibc")
	expected.check(t, doc, true)
}

// TestUpgradedProcess attaches to a process whose libc was deleted, as an upgrade does. It is still a libc.
func TestUpgradedProcess(t *testing.T) {
	opts := options(t)
	program := exec.Command(buildBusy(t))
	folder := t.TempDir()
	libc := filepath.Join(folder, "libc.so.6")
	copyFile(t, libcPath(t), libc)
	program.Env = append(os.Environ(), "LD_LIBRARY_PATH="+folder)
	doc := attach(t, opts, program, func() {
		if err := os.Remove(libc); err != nil {
			t.Fatal(err)
		}
	})
	expected := readExpectations(t, source("busy.c"), "busy", "glibc")
	expected.check(t, doc, true)
	if !slices.ContainsFunc(doc.Programs[0].Objects, func(o attribution.Object) bool { return o.Path == libc }) {
		t.Errorf("no object %s", libc)
	}
}

func libcPath(t *testing.T) string {
	t.Helper()
	path, err := exec.Command("gcc", "-print-file-name=libc.so.6").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(path))
}

func buildBusy(t *testing.T) string {
	t.Helper()
	return fixtures.Build(t, "busy", "gcc -O2 -pthread "+source("busy.c"))
}

// attach starts the program of busy.c and traces it from when its threads run. running is called before that.
func attach(t *testing.T, opts Options, program *exec.Cmd, running func()) *attribution.Document {
	t.Helper()
	opts.EveryChain = false // which is not for a process in the middle of its work
	ready, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = program.Process.Kill()
		_ = program.Wait()
	})
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	running()
	opts.Log = func(format string, args ...any) {
		t.Logf(format, args...)
		if strings.HasPrefix(format, "tracing process") {
			_ = program.Process.Signal(syscall.SIGUSR1)
			time.AfterFunc(500*time.Millisecond, func() { _ = program.Process.Signal(syscall.SIGTERM) })
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	result, err := Process(ctx, program.Process.Pid, opts)
	if err != nil {
		t.Fatal(err)
	}
	return result.Document
}

// TestNoFollow stays with the first process, whose threads are its own and whose children are not.
func TestNoFollow(t *testing.T) {
	opts := options(t)
	opts.Follow = false
	program, image := buildProcesses(t)
	doc := run(t, opts, program, image)
	checkComplete(t, doc)
	n := documentCounts(doc)
	for name, want := range map[string]uint64{
		"getuid": 12, "vfork": 3, "wait4": 13, "exit_group": 1, "exit": 3, "getppid": 0, "setsid": 0,
	} {
		if n[name] != want {
			t.Errorf("%s: %d calls, want %d", name, n[name], want)
		}
	}
	if findProgram(doc, "image") != nil {
		t.Error("the program of a child is in the document")
	}
	// An exec is no new process.
	doc = run(t, opts, image, "again")
	if n := documentCounts(doc)["times"]; n != 2 {
		t.Errorf("times: %d calls around an exec, want 2", n)
	}
}

// TestShortLived: processes that are gone before anybody could look at them.
func TestShortLived(t *testing.T) {
	opts := options(t)
	const times = 200
	loop := fmt.Sprintf("i=0; while [ $i -lt %d ]; do /bin/true; i=$((i+1)); done", times)
	single := straceCounts(t, counts{"exit_group": 1}, "/bin/true")
	doc := run(t, opts, "/bin/sh", "-c", loop)
	checkComplete(t, doc)
	want := counts{}
	for name, n := range single {
		want[name] = n * times
	}
	p := findProgram(doc, "true")
	if p == nil {
		t.Fatal("no program true")
	}
	compareCounts(t, documentCounts(&attribution.Document{Programs: []attribution.Program{*p}}), want)
}

// TestPrograms: nothing is lost and nothing unknown in programs off the path of the others.
func TestPrograms(t *testing.T) {
	for _, command := range [][]string{
		{"perl", "-e", "use POSIX; use Socket; system('true')"},
		{"openssl", "dgst", "-sha256", "-out", "/dev/null", "/etc/services"},
		{"curl", "-s", "-o", "/dev/null", "file:///etc/services"},
		{"tar", "-C", "testdata", "-czf", "/dev/null", "."},
		{"bash", "-c", "for i in 1 2 3; do echo $i | cat; done | sort -r >/dev/null"},
		{"find", ".", "-newer", "doc.go", "-exec", "true", ";"},
		{"awk", `BEGIN { "date" | getline d; print d > "/dev/null" }`},
	} {
		t.Run(command[0], func(t *testing.T) {
			testenv.Tool(t, command[0])
			doc := run(t, options(t), command...)
			checkComplete(t, doc)
			var calls uint64
			for i := range doc.Programs {
				calls += doc.Programs[i].Calls()
			}
			t.Logf("%d calls of %d programs", calls, len(doc.Programs))
			if calls < 50 {
				t.Errorf("only %d calls", calls)
			}
		})
	}
}

// TestEndedProcess: a process that is gone is told, not traced.
func TestEndedProcess(t *testing.T) {
	opts := options(t)
	program := exec.Command("true")
	if err := program.Run(); err != nil {
		t.Fatal(err)
	}
	_, err := Process(context.Background(), program.Process.Pid, opts)
	if err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("error %v, want one that says that it does not exist", err)
	}
}

// TestCancel: a trace that is ended early has a document, and the command goes on.
func TestCancel(t *testing.T) {
	opts := options(t)
	program := exec.Command(buildBusy(t))
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = program.Process.Kill()
		_ = program.Wait()
	})
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	result, err := Process(ctx, program.Process.Pid, opts)
	if err != nil {
		t.Fatal(err)
	}
	checkComplete(t, result.Document)
	if n := documentCounts(result.Document)["getppid"]; n == 0 {
		t.Error("no calls were seen")
	}
	if err := program.Process.Signal(syscall.Signal(0)); errors.Is(err, syscall.ESRCH) || err != nil {
		t.Errorf("the traced process has ended: %v", err)
	}
}
