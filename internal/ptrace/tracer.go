package ptrace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"bulkhead/internal/seccomp"
)

// Handler decides about the stops of a target. Its methods are called one at a time.
type Handler interface {
	// Call is called when a thread enters a system call that stops.
	Call(*Thread) Verdict
	// Exec is called when a process is about to run the first instruction of a program image. False kills it.
	Exec(*Process) bool
	// Fork is called for a new process before its first instruction.
	Fork(parent, child *Process)
}

// Verdict is what becomes of a system call.
type Verdict struct {
	kind  verdictKind
	errno unix.Errno
}

type verdictKind uint8

const (
	goOn verdictKind = iota
	failCall
	killProcess
)

// GoOn lets the call happen.
func GoOn() Verdict { return Verdict{} }

// Fail returns an error in the call's place.
func Fail(e unix.Errno) Verdict { return Verdict{failCall, e} }

// Kill ends the process by SIGKILL before the call happens.
func Kill() Verdict { return Verdict{kind: killProcess} }

// Options say how a target is traced.
type Options struct {
	Handler Handler
	// Filter, if not nil, says which calls stop: those that it traces, with the ABI as data. It stays when the tracer goes,
	// and such calls fail with ENOSYS then. Without one every call stops.
	Filter []bpf.RawInstruction
	// Follow traces the children of the first process, too. A filter, which children inherit, needs it.
	Follow bool
	// DieWithTracer kills all that is traced when this process ends for whatever reason (PTRACE_O_EXITKILL).
	DieWithTracer bool
	// Ended, if not nil, is called when the first process has ended while others have not.
	Ended func(syscall.WaitStatus)
}

// Process is a process with its threads.
type Process struct {
	PID   int
	Space *Space
	// Data is the handler's.
	Data any

	threads int
}

// Thread is a thread of the target. All but the first two hold good while it is stopped.
type Thread struct {
	TID     int
	Process *Process
	Call    seccomp.Call
	SP      uint64 // the stack pointer
	// Memory reads the thread's memory.
	Memory *Memory

	regs      Registers
	read      bool // regs are of this stop
	state     state
	epoch     uint64 // of the space when the thread ran last
	processor processor
	// new threads:
	awaited bool // its parent has told
	status  unix.WaitStatus
}

// state is where a running thread is.
type state uint8

const (
	outside  state = iota
	inside         // a system call is under way, and its end will stop
	changing       // the same, of a call that changes mappings or executes an image
)

// Tracer follows a target. It belongs to one thread.
type Tracer struct {
	opts     Options
	threads  map[int]*Thread
	root     int
	status   *syscall.WaitStatus // how the root has ended
	events   []event
	waits    uint    // how often collect has waited
	early    []event // that came before run
	memory   Memory
	stopping <-chan struct{}
	follow   follower
	// withoutInfo: the kernel has no PTRACE_GET_SYSCALL_INFO.
	withoutInfo bool
	err         error
}

// ExecError says that a command could not be started at all, and no fault of ours.
type ExecError struct {
	Path string
	Err  error
}

func (e *ExecError) Error() string { return e.Path + ": " + e.Err.Error() }
func (e *ExecError) Unwrap() error { return e.Err }

// Command runs a command with the environment, the folder and the standard files of this process and traces it from its
// first instruction until it and all its followed descendants have ended. started, if not nil, gets the process id. When
// ctx is done before that, the target is killed if it dies with its tracer, else it is let go and the status is nil.
func Command(ctx context.Context, path string, argv []string, started func(pid int), opts Options) (*syscall.WaitStatus, error) {
	return onThread(func() (*syscall.WaitStatus, error) {
		t := newTracer(opts)
		if err := t.start(path, argv); err != nil {
			return nil, err
		}
		if started != nil {
			started(t.root)
		}
		return t.run(ctx)
	})
}

// Attach traces a running process with all its threads until it and all its followed descendants have ended, or until ctx
// is done: then they are let go, or killed if they die with their tracer. started is called when all threads are traced,
// and under the filter if there is one.
func Attach(ctx context.Context, pid int, started func(pid int), opts Options) error {
	_, err := onThread(func() (*syscall.WaitStatus, error) {
		t := newTracer(opts)
		if err := t.seize(pid); err != nil {
			return nil, err
		}
		if started != nil {
			started(pid)
		}
		return t.run(ctx)
	})
	return err
}

// onThread runs the work of a tracer on a thread of its own, which ends with it.
func onThread(work func() (*syscall.WaitStatus, error)) (status *syscall.WaitStatus, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: no_new_privs and the processor are the thread's
		if err = silenceStops(); err != nil {
			return
		}
		status, err = work()
	}()
	<-done
	return status, err
}

func newTracer(opts Options) *Tracer {
	t := &Tracer{opts: opts, threads: map[int]*Thread{}}
	t.follow.current = -1
	return t
}

func (t *Tracer) seizeOptions() uintptr {
	options := uintptr(unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_TRACECLONE)
	if t.opts.Follow {
		options |= unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK
	}
	if t.opts.DieWithTracer {
		options |= unix.PTRACE_O_EXITKILL
	}
	return options
}

// run handles stops until no thread is left.
func (t *Tracer) run(ctx context.Context) (*syscall.WaitStatus, error) {
	t.stopping = ctx.Done()
	stop := context.AfterFunc(ctx, t.nudge)
	defer stop()
	for {
		err := t.collect()
		if err == unix.ECHILD {
			return t.status, t.err
		}
		if err != nil {
			return t.status, fmt.Errorf("wait for the traced threads: %w", err)
		}
		for _, e := range t.events {
			t.handle(e.tid, e.status)
		}
		select {
		case <-t.stopping:
			return t.leave()
		default:
		}
	}
}

// takeAll is how many waits take one event for one that takes all: looking for more costs a tenth of a stop.
const takeAll = 16

// event is what wait tells of a thread.
type event struct {
	tid    int
	status unix.WaitStatus
}

// collect waits until something happens. The kernel's wait prefers the threads that it was given first, so that one after
// the other would starve the last of many: now and then, all that has happened is taken.
func (t *Tracer) collect() error {
	t.events = append(t.events[:0], t.early...)
	if t.early = nil; len(t.events) > 0 {
		return nil
	}
	t.waits++
	tid, status, err := wait(-1, 0)
	for err == nil && tid > 0 {
		// A second event of a thread: it was killed in the stop that the first one tells of.
		t.events = slices.DeleteFunc(t.events, func(e event) bool { return e.tid == tid })
		t.events = append(t.events, event{tid, status})
		if len(t.threads) < 2 || t.waits%takeAll != 0 {
			return nil
		}
		tid, status, err = wait(-1, unix.WNOHANG)
	}
	if len(t.events) > 0 {
		return nil
	}
	return err
}

// nudge makes run's wait return: the first process stops, which nobody but the tracer sees.
func (t *Tracer) nudge() {
	if t.opts.DieWithTracer {
		_ = unix.Kill(t.root, unix.SIGKILL)
		return
	}
	_ = unix.Kill(t.root, unix.SIGSTOP)
}

func (t *Tracer) handle(tid int, status unix.WaitStatus) {
	th := t.threads[tid]
	if status.Exited() || status.Signaled() {
		t.ended(tid, th, status)
		return
	}
	if !status.Stopped() {
		return
	}
	if th == nil || !th.awaited {
		t.born(tid, th, status)
		return
	}
	t.stopped(th, status)
}

// fail keeps the first error that is not a thread's end: SIGKILL may end a stopped thread at any time.
func (t *Tracer) fail(what string, th *Thread, err error) {
	if err == nil || errors.Is(err, unix.ESRCH) || t.err != nil {
		return
	}
	t.err = fmt.Errorf("%s of thread %d: %w", what, th.TID, err)
}

// Stops of the kind PTRACE_EVENT_STOP and of system calls (PTRACE_O_TRACESYSGOOD).
const (
	eventStop   = 128
	syscallStop = unix.SIGTRAP | 0x80
)

func (t *Tracer) stopped(th *Thread, status unix.WaitStatus) {
	signal := status.StopSignal()
	switch event := int(status>>16) & 0xff; {
	case event == unix.PTRACE_EVENT_SECCOMP:
		t.filtered(th)
	case signal == syscallStop:
		t.syscall(th)
	case event == unix.PTRACE_EVENT_EXEC:
		t.exec(th)
	case event == unix.PTRACE_EVENT_FORK || event == unix.PTRACE_EVENT_VFORK || event == unix.PTRACE_EVENT_CLONE:
		t.forked(th)
	case event == eventStop && stops(signal):
		t.fail("PTRACE_LISTEN", th, request(unix.PTRACE_LISTEN, th.TID, 0, 0))
	case event == eventStop:
		t.resume(th, 0)
	default:
		t.resume(th, signal)
	}
}

func stops(s syscall.Signal) bool {
	return s == unix.SIGSTOP || s == unix.SIGTSTP || s == unix.SIGTTIN || s == unix.SIGTTOU
}

// resume lets a thread run, with a signal that it stopped for.
func (t *Tracer) resume(th *Thread, signal syscall.Signal) {
	how := unix.PTRACE_CONT
	if t.opts.Filter == nil || th.state != outside {
		how = unix.PTRACE_SYSCALL
	}
	th.epoch = th.Process.Space.epoch
	t.fail("resuming", th, request(how, th.TID, 0, uintptr(signal)))
}

// ended forgets a thread.
func (t *Tracer) ended(tid int, th *Thread, status unix.WaitStatus) {
	if tid == t.root {
		root := syscall.WaitStatus(status)
		t.status = &root
	}
	if th != nil {
		t.forget(th)
		if th.Process != nil && status.Signaled() {
			t.adoptOrphans(th.Process)
		}
	}
	if tid == t.root && len(t.threads) > 0 && t.opts.Ended != nil {
		t.opts.Ended(*t.status)
	}
}

func (t *Tracer) forget(th *Thread) {
	delete(t.threads, th.TID)
	if th.Process == nil {
		return
	}
	th.Process.threads--
	space := th.Process.Space
	for i, w := range space.waiting {
		if w == th {
			space.waiting = append(space.waiting[:i:i], space.waiting[i+1:]...)
			break
		}
	}
	if space.changing == th {
		t.changed(space, extent{end: wholeWord})
	}
}

// leave ends the trace before the target has ended.
func (t *Tracer) leave() (*syscall.WaitStatus, error) {
	if t.opts.DieWithTracer {
		for _, th := range t.threads {
			_ = unix.Kill(th.TID, unix.SIGKILL)
		}
		for {
			if _, _, err := wait(-1, 0); err != nil {
				return nil, t.err
			}
		}
	}
	t.detach()
	return nil, t.err
}

// detach lets go of every thread, each at its next stop.
func (t *Tracer) detach() {
	for _, th := range t.threads {
		_ = request(unix.PTRACE_INTERRUPT, th.TID, 0, 0)
	}
	for len(t.threads) > 0 {
		tid, status, err := wait(-1, 0)
		if err != nil {
			return
		}
		th := t.threads[tid]
		if status.Exited() || status.Signaled() {
			t.ended(tid, th, status)
			continue
		}
		signal := syscall.Signal(0)
		if event := int(status>>16) & 0xff; event == 0 && status.StopSignal() != syscallStop {
			signal = status.StopSignal()
		}
		if signal == unix.SIGSTOP && tid == t.root {
			signal = 0 // ours
		}
		_ = request(unix.PTRACE_DETACH, tid, 0, uintptr(signal))
		delete(t.threads, tid)
	}
}

var errNoKcmp = errors.New("this kernel cannot tell whether two processes share memory (kcmp(2)): " +
	"it needs CONFIG_KCMP, or before Linux 5.12 CONFIG_CHECKPOINT_RESTORE")

func checkKcmp() error {
	if _, err := sharesMemory(os.Getpid(), os.Getpid()); err != nil {
		return errors.Join(errNoKcmp, err)
	}
	return nil
}
