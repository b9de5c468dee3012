package trace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/internal/attribution"
)

// Result is what a trace found.
type Result struct {
	Document *attribution.Document
	// Status is how the command ended; nil after Process and when the trace was stopped before.
	Status *syscall.WaitStatus
	// Unstreamed is how many of the counted calls Options.Stream did not get.
	Unstreamed uint64
}

// pollLive is how often the end of the descendants is looked for once the first process has ended.
const pollLive = 20 * time.Millisecond

// Process traces a running process with all its threads until it and, with Follow, its later children have ended, or
// until ctx is done.
func Process(ctx context.Context, pid int, opts Options) (*Result, error) {
	if err := unix.Kill(pid, 0); errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("process %d does not exist", pid)
	}
	if opts.Ptrace {
		return processByPtrace(ctx, pid, opts)
	}
	records, err := openRecords()
	if err != nil {
		return nil, err
	}
	s, err := newSession(opts, newRowReader(opts), records)
	if err != nil {
		return nil, err
	}
	if err := s.start(pid); err != nil {
		return nil, errors.Join(err, s.end(), s.close())
	}
	s.opts.Log("tracing process %d; Ctrl-C ends the trace, not the process", pid)
	s.waitLive(ctx)
	return s.result(nil)
}

// Command runs a command with the environment, the folder and the standard files of this process and traces it from its
// first instruction until it and, with Follow, its descendants have ended, or until ctx is done. Signals that signals
// delivers are passed on to it.
func Command(ctx context.Context, path string, argv []string, signals <-chan os.Signal, opts Options) (*Result, error) {
	if opts.Ptrace {
		return commandByPtrace(ctx, path, argv, signals, opts)
	}
	records, err := openRecords()
	if err != nil {
		return nil, err
	}
	rows := newRowReader(opts)
	libraries := rows.ahead(path)
	open := sync.OnceValues(func() (*session, error) { return newSession(opts, rows, records) })
	go open() // while the command starts
	child, err := startStopped(path, argv, func(pid int) error {
		s, err := open()
		if err != nil {
			return err
		}
		s.preload(pid, libraries())
		return s.start(pid)
	})
	s, failed := open()
	if failed != nil {
		return nil, failed
	}
	if err != nil {
		return nil, errors.Join(err, s.end(), s.close())
	}
	ended := make(chan *syscall.WaitStatus, 1)
	go func() {
		state, err := child.Wait()
		if err != nil {
			s.opts.Log("waiting for %s: %v", path, err)
		}
		ended <- statusOf(state)
	}()
	for {
		select {
		case status := <-ended:
			if s.tracer.Live() > 0 {
				s.opts.Log("%s has ended, but processes that it started have not: tracing goes on until they end or Ctrl-C", path)
				s.waitLive(ctx)
			}
			return s.result(status)
		case signal := <-signals:
			_ = child.Signal(signal) // it may have ended already
		case <-ctx.Done():
			return s.result(nil)
		}
	}
}

func statusOf(state *os.ProcessState) *syscall.WaitStatus {
	if state == nil {
		return nil
	}
	status := state.Sys().(syscall.WaitStatus)
	return &status
}

func (s *session) waitLive(ctx context.Context) {
	tick := time.NewTicker(pollLive)
	defer tick.Stop()
	for s.tracer.Live() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *session) result(status *syscall.WaitStatus) (*Result, error) {
	err := s.end()
	doc := s.document()
	result := &Result{Document: doc, Status: status, Unstreamed: s.unstreamed()}
	return result, errors.Join(err, s.stream.failed(), s.close())
}

// preload loads the rows of what the loader of a stopped program is about to map. What it misses is loaded when it is
// mapped. The libraries are those of the command's file, if it names any: of a script, those of its interpreter count.
func (s *session) preload(pid int, libraries []string) {
	if len(libraries) == 0 {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil {
			return
		}
		libraries = s.objects.rows.libraries(exe)
	}
	for _, path := range libraries {
		if _, err := s.objects.openPath(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.opts.Log("cannot read %s: %v", path, err)
		}
	}
	s.objects.wait()
}

// startStopped starts a command and calls ready while it is stopped behind its execve, before its first instruction.
func startStopped(path string, argv []string, ready func(pid int) error) (*os.Process, error) {
	// All requests to a traced child must come from the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child, err := os.StartProcess(path, argv, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		var pathErr *os.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		return nil, &ExecError{Path: path, Err: err}
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(child.Pid, &status, 0, nil); err != nil {
		return nil, fmt.Errorf("wait for %s to start: %w", path, err)
	}
	if !status.Stopped() {
		return nil, &ExecError{Path: path, Err: fmt.Errorf("the kernel ended it before its first instruction: %v", status.Signal())}
	}
	err = ready(child.Pid)
	if err == nil {
		err = os.NewSyscallError("ptrace", unix.PtraceDetach(child.Pid))
	}
	if err != nil {
		return nil, errors.Join(err, child.Kill())
	}
	return child, nil
}
