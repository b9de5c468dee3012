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
	seen int64 // monotonic, ns
}

// lookEvery is how long a thread is thought to stay where it is.
const lookEvery = time.Millisecond

// to moves to a stopped thread's processor.
func (f *follower) to(th *Thread) {
	if f.broken {
		return
	}
	if now := nanotime(); now-th.processor.seen > int64(lookEvery) {
		at, err := processorOf(th.TID)
		if err != nil {
			return
		}
		th.processor = processor{at, now}
	}
	if th.processor.at == f.current {
		return
	}
	var set unix.CPUSet
	set.Set(th.processor.at)
	if unix.SchedSetaffinity(0, &set) != nil {
		f.broken = true // a cpuset that the target is not in
		return
	}
	f.current = th.processor.at
}

func nanotime() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return now.Nano()
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
