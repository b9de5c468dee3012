package trace

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"bulkhead/internal/perf"
)

func mapped(time uint64, pid int, start, end uint64, path string) perf.Record {
	return perf.Record{Kind: perf.Map, Time: time, PID: pid, TID: pid, Start: start, End: end, Inode: 1, Path: path}
}

func forked(time uint64, parent, child int) perf.Record {
	return perf.Record{Kind: perf.Fork, Time: time, PID: child, TID: child, Parent: parent}
}

// tracked returns spaces that follow a process as a session does from its start on.
func tracked(pid int) *spaces {
	s := newSpaces()
	s.lives[pid] = []*life{{}}
	return s
}

// TestFind: an address means what was mapped there at the time, in the process that it was then.
func TestFind(t *testing.T) {
	const a, b, c = 1 << 22, 1<<22 + 1, 1<<22 + 2 // beyond all process numbers
	records := []perf.Record{
		mapped(10, a, 0x1000, 0x3000, "/program"),
		mapped(11, a, 0x5000, 0x6000, "/first"),
		forked(20, a, b),
		mapped(30, a, 0x5000, 0x6000, "/second"),                     // over the first
		mapped(31, b, 0x8000, 0x9000, "/child's own"),                // of the child only
		mapped(32, c, 0x1000, 0x2000, "/not followed"),               // nobody knows c
		{Kind: perf.Fork, Time: 33, PID: a, TID: a + 100, Parent: a}, // a thread
		{Kind: perf.Exec, Time: 40, PID: b, TID: b},
		mapped(41, b, 0x1000, 0x2000, "/image"),
		forked(50, b, c),
		{Kind: perf.Exit, Time: 60, PID: b, TID: b + 1}, // a thread
		{Kind: perf.Exit, Time: 61, PID: b, TID: b},
	}
	s := tracked(a)
	made := s.apply(records)
	if len(made) != 5 {
		t.Errorf("%d mappings of followed processes, want 5", len(made))
	}
	for _, test := range []struct {
		what          string
		pid           int
		address, time uint64
		want          string
	}{
		{"mapped", a, 0x1000, 15, "/program"},
		{"last byte", a, 0x2fff, 15, "/program"},
		{"behind", a, 0x3000, 15, ""},
		{"before it was mapped", a, 0x1000, 9, ""},
		{"at that time", a, 0x1000, 10, "/program"},
		{"before it was covered", a, 0x5000, 29, "/first"},
		{"after it was covered", a, 0x5000, 30, "/second"},
		{"the child has the parent's", b, 0x1000, 25, "/program"},
		{"the child keeps what the parent covers", b, 0x5000, 35, "/first"},
		{"the child's own", b, 0x8000, 35, "/child's own"},
		{"not the parent's", a, 0x8000, 35, ""},
		{"after exec", b, 0x1000, 45, "/image"},
		{"nothing older after exec", b, 0x5000, 45, ""},
		{"still what was before exec", b, 0x5000, 39, "/first"},
		{"the grandchild has the new image", c, 0x1000, 55, "/image"},
		{"and nothing else", c, 0x2800, 55, ""},
		{"no such process", c + 1, 0x1000, 55, ""},
	} {
		if m, ok := s.find(test.pid, test.address, test.time); ok != (test.want != "") || m.File.Path != test.want {
			t.Errorf("%s: %#x of %d at %d is %q (%v), want %q", test.what, test.address, test.pid, test.time, m.File.Path, ok, test.want)
		}
	}
	if s.known(c+1) || !s.known(c) {
		t.Error("known processes are not those of the records")
	}
}

// TestForget: what has ended is dropped later, and not what goes on without its first thread.
func TestForget(t *testing.T) {
	const pid = 1 << 22
	self := os.Getpid()
	s := tracked(pid)
	s.lives[self] = []*life{{}}
	s.apply([]perf.Record{
		mapped(1, pid, 0x1000, 0x2000, "/program"),
		forked(2, pid, pid+1),
		{Kind: perf.Exit, Time: 100, PID: pid, TID: pid},
		{Kind: perf.Exit, Time: 100, PID: self, TID: self},
	})
	s.forget(100+uint64(time.Second)-1, time.Second)
	if !s.known(pid) {
		t.Error("forgotten too early")
	}
	s.forget(100+uint64(time.Second), time.Second)
	if s.known(pid) {
		t.Error("not forgotten")
	}
	if !s.known(self) {
		t.Error("a process that is there was forgotten")
	}
	if m, ok := s.find(pid+1, 0x1000, 200); !ok || m.File.Path != "/program" {
		t.Error("the child has lost what it had from its parent")
	}
}

// TestSnapshot: what a process had before counts from the beginning of time, and records from after it add to that.
func TestSnapshot(t *testing.T) {
	command := exec.Command("sleep", "60")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	}()
	pid := command.Process.Pid
	s := newSpaces()
	made, err := s.snapshot(pid)
	if err != nil {
		t.Fatal(err)
	}
	if len(made) == 0 {
		t.Fatal("no executable mappings")
	}
	s.apply([]perf.Record{mapped(10, pid, made[0].Start, made[0].End, "/later")})
	for at, want := range map[uint64]string{9: made[0].File.Path, 10: "/later"} {
		if m, ok := s.find(pid, made[0].Start, at); !ok || m.File.Path != want {
			t.Errorf("at %d: %q, want %q", at, m.File.Path, want)
		}
	}
	if _, err := s.snapshot(1 << 30); err == nil {
		t.Error("no error for a process that cannot be")
	}
}
