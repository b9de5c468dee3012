package ptrace

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// follower keeps the tracer's thread on the processor of the thread that it serves.
type follower struct {
	current int // where this thread is bound to; -1: nowhere
	broken  bool
}

// processor is where a thread was seen last.
type processor struct {
	at   int
	seen time.Duration // after start
	hold time.Duration // for how long that is believed
}

// start is when time begins: comparing with it costs no system call.
var start = time.Now()

// A thread that stays where it is, is looked at less and less often: looking costs as much as a stop.
const (
	shortestHold = 2 * time.Millisecond
	longestHold  = 128 * time.Millisecond
)

// to moves to a stopped thread's processor.
func (f *follower) to(th *Thread) {
	if f.broken {
		return
	}
	p := &th.processor
	if now := time.Since(start); now-p.seen > p.hold {
		at, err := processorOf(th.TID)
		if err != nil {
			return
		}
		hold := shortestHold
		if at == p.at && p.seen != 0 {
			hold = min(2*p.hold, longestHold)
		}
		*p = processor{at, now, hold}
	}
	if p.at == f.current {
		return
	}
	var set unix.CPUSet
	set.Set(p.at)
	if unix.SchedSetaffinity(0, &set) != nil {
		f.broken = true // a cpuset that the target is not in
		return
	}
	f.current = p.at
}

// processorOf reads where a thread ran last: field 39 of /proc/PID/stat, proc_pid_stat(5).
func processorOf(tid int) (int, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The second field is in parentheses and may hold anything.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	const processorField = 39 - 3
	if len(fields) <= processorField {
		return 0, strconv.ErrSyntax
	}
	return strconv.Atoi(string(fields[processorField]))
}
