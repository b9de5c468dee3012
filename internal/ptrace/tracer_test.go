package ptrace

import (
	"context"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/internal/seccomp"
	"bulkhead/internal/syscalls"
)

// recorder counts calls by name and answers by a table.
type recorder struct {
	calls    map[string]int
	verdicts map[string]Verdict
	execs    int
	forks    int
}

func (r *recorder) Call(t *Thread) Verdict {
	name, _ := syscalls.Name(t.Call.ABI, int(t.Call.NR))
	r.calls[name]++
	if t.Find(t.Call.IP-1) == nil {
		r.calls["lost"]++
	}
	return r.verdicts[name]
}
func (r *recorder) Exec(*Process) bool      { r.execs++; return true }
func (r *recorder) Fork(*Process, *Process) { r.forks++ }

func traceAll(t *testing.T) *seccomp.Filter { return &seccomp.Filter{Default: seccomp.Trace(0)} }

func run(t *testing.T, r *recorder, filter *seccomp.Filter, argv ...string) unix.WaitStatus {
	t.Helper()
	r.calls = map[string]int{}
	opts := Options{Handler: r, Follow: true, DieWithTracer: true}
	if filter != nil {
		var err error
		if opts.Filter, err = filter.Compile(); err != nil {
			t.Fatal(err)
		}
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		t.Fatal(err)
	}
	status, err := Command(context.Background(), path, argv, nil, opts)
	if err != nil {
		t.Fatal(err)
	}
	if status == nil {
		t.Fatal("no status")
	}
	return unix.WaitStatus(*status)
}

func TestBoth(t *testing.T) {
	for name, filter := range map[string]*seccomp.Filter{"all": nil, "filter": traceAll(t)} {
		t.Run(name, func(t *testing.T) {
			var r recorder
			status := run(t, &r, filter, "sh", "-c", "/bin/true; /bin/true & (exit 3); wait; exit 7")
			t.Log(r, status)
			if status.ExitStatus() != 7 || r.execs != 3 || r.calls["lost"] > 0 || r.calls["execve"] != 2 {
				t.Errorf("status %v, %+v", status, r)
			}
		})
	}
}
