package ptrace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// seize takes a running process.
func (t *Tracer) seize(pid int) error {
	if err := checkKcmp(); err != nil {
		return err
	}
	p := &Process{PID: pid, Space: newSpace()}
	t.root = pid
	// Threads that were seized tell of those that they make; before that, some may be made unseen.
	for found := true; found; {
		tids, err := threadsOf(pid)
		if err != nil {
			return err
		}
		found = false
		for _, tid := range tids {
			if t.threads[tid] != nil {
				continue
			}
			err := request(unix.PTRACE_SEIZE, tid, 0, t.seizeOptions())
			if err == nil {
				err = request(unix.PTRACE_INTERRUPT, tid, 0, 0)
			}
			if errors.Is(err, unix.ESRCH) {
				continue // it has ended
			}
			if err != nil && len(t.threads) > 0 && traced(tid) {
				continue // made by one that is seized: it tells
			}
			if err != nil && !runs(pid) {
				return errEnded(pid)
			}
			if err != nil {
				return fmt.Errorf("trace thread %d of process %d: %w", tid, pid, err)
			}
			t.threads[tid] = &Thread{TID: tid, Process: p, awaited: true}
			p.threads++
			found = true
		}
	}
	if p.threads == 0 {
		return errEnded(pid)
	}
	if !t.opts.Handler.Exec(p) {
		t.detach()
		return errRefused
	}
	if t.opts.Filter == nil {
		return nil
	}
	if err := t.join(pid); err != nil {
		t.detach()
		return err
	}
	return nil
}

// runs tells whether a process has a program image: one that has ended and waits for its parent has none.
func runs(pid int) bool {
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return !errors.Is(err, fs.ErrNotExist)
}

func errEnded(pid int) error { return fmt.Errorf("process %d has ended or is a kernel thread", pid) }

// join puts all threads of a seized process, which have been told to stop, under the filter at once. Calls that are under
// way are not judged.
func (t *Tracer) join(pid int) error {
	for tid := range t.threads {
		_, status, err := wait(tid, 0)
		if err != nil {
			return fmt.Errorf("wait for thread %d to stop: %w", tid, err)
		}
		t.early = append(t.early, event{tid, status})
	}
	at := slices.IndexFunc(t.early, func(e event) bool { return e.status.Stopped() })
	if at < 0 {
		return errEnded(pid)
	}
	if err := install(t.early[at].tid, t.opts.Filter); err != nil {
		return fmt.Errorf("put process %d under a filter: %w", pid, err)
	}
	return nil
}

func threadsOf(pid int) ([]int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, fmt.Errorf("process %d does not exist", pid)
	}
	var tids []int
	for _, e := range entries {
		if tid, err := strconv.Atoi(e.Name()); err == nil {
			tids = append(tids, tid)
		}
	}
	return tids, nil
}

// traced tells whether a thread is traced by this one.
func traced(tid int) bool {
	return request(unix.PTRACE_INTERRUPT, tid, 0, 0) == nil
}
