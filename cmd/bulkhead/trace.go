package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	osexec "os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
	"unsafe"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"bulkhead/internal/attribution"
	"bulkhead/internal/cfi"
	"bulkhead/internal/filecache"
	"bulkhead/internal/ptrace"
	"bulkhead/internal/trace"
)

type traceFlags struct {
	output   outputFlags
	pid      int
	noFollow bool
	chains   bool
	stream   bool
	conduits []string
	backend  string
	goBy     goByFlag
}

func traceCommand() *cobra.Command {
	var flags traceFlags
	command := &cobra.Command{
		Use:   "trace [flags] -- COMMAND [ARG...]",
		Short: "Attribute every system call of a command or process to the library that caused it",
		Long: `Trace runs a command, or attaches to a running process, and counts every system
call by the library that caused it. The command's standard files, exit status
and signals pass through; the result goes to standard error or to --out FILE.
The first interrupt is for the command, the second one ends the trace.`,
		Example: "  bulkhead trace -- redis-server --port 6390\n  bulkhead trace --pid 4711 -o json --out redis.json",
		RunE: func(command *cobra.Command, args []string) error {
			if command.Flags().Changed("pid") == (len(args) != 0) {
				return errors.New("give either a command or --pid PID: see bulkhead trace --help")
			}
			if len(args) == 0 && flags.pid <= 0 {
				return fmt.Errorf("%d is not the number of a process", flags.pid)
			}
			return runTrace(&flags, args)
		},
	}
	command.Flags().SetInterspersed(false) // what follows the command is its own
	flags.output.register(command)
	command.Flags().IntVarP(&flags.pid, "pid", "p", 0, "trace all threads of the running process `PID`")
	command.Flags().BoolVar(&flags.noFollow, "no-follow", false, "stay with the first process")
	command.Flags().BoolVar(&flags.chains, "chains", false, "walk every stack to its end, not only a sample")
	command.Flags().BoolVar(&flags.stream, "stream", false, "write each call as a line of JSON instead")
	command.Flags().StringVar(&flags.backend, "backend", "kernel", "kernel, or ptrace, which needs no rights and is slow")
	flags.goBy.register(command)
	command.Flags().StringArrayVar(&flags.conduits, "conduit", nil, "do not charge libraries that match `PATTERN` (repeatable)")
	return command
}

func runTrace(flags *traceFlags, args []string) error {
	if err := flags.output.check(); err != nil {
		return err
	}
	if len(args) == 0 {
		flags.output.stream = os.Stdout
	}
	opts, err := flags.options()
	if err != nil {
		return err
	}
	tuneRuntime()
	var cacheErr error
	if opts.Cache, cacheErr = cfi.OpenCache(""); cacheErr == nil {
		opts.Start, cacheErr = filecache.Open("", "start")
	}
	var result *trace.Result
	var stopped error
	if len(args) == 0 {
		ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer cancel()
		result, err = trace.Process(ctx, flags.pid, opts)
	} else {
		result, stopped, err = traceChild(args, opts)
	}
	if err != nil {
		return commandFailure(err)
	}
	if cacheErr != nil {
		note("without a cache every start is slow: %v", cacheErr)
	}
	if flags.stream {
		noteStream(result)
	} else if err := flags.output.write(result.Document); err != nil {
		return &failure{exitOwnFailure, err}
	}
	return passOn(result.Status, stopped)
}

// note says something to the user that is no result, in one line.
func note(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bulkhead: %s\n", oneLine(fmt.Sprintf(format, args...)))
}

// noteStream tells what the stream does not.
func noteStream(r *trace.Result) {
	missing, unattributed := r.Unstreamed, uint64(0)
	for _, p := range r.Document.Programs {
		missing += p.Losses.LostEvents
		unattributed += p.Losses.Unattributed
	}
	if missing == 0 && unattributed == 0 {
		note("the stream is complete: no losses")
		return
	}
	note("the stream is not complete: %d calls are missing, %d are charged to %s", missing, unattributed, attribution.Unknown)
}

// tuneRuntime keeps a processor of Go's for reading events while others make unwind rows, and lets the start, which needs
// little memory, pass without collecting garbage.
func tuneRuntime() {
	runtime.GOMAXPROCS(runtime.NumCPU() + 1)
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(84 << 20)
}

// staySmall trades time for memory: a tracer should be small beside its target.
func staySmall() { debug.SetGCPercent(50) }

func (f *traceFlags) options() (trace.Options, error) {
	conduits, err := attribution.NewConduits(f.conduits...)
	if err != nil {
		return trace.Options{}, err
	}
	opts := trace.Options{
		Follow: !f.noFollow, EveryChain: f.chains, Conduits: conduits, GoBy: f.goBy.GoBy, Ptrace: f.backend == "ptrace", Started: staySmall, Log: note,
	}
	if f.backend != "ptrace" && f.backend != "kernel" {
		return opts, fmt.Errorf("unknown backend %q: want kernel or ptrace", f.backend)
	}
	if f.stream {
		opts.Stream, err = f.output.open()
	}
	return opts, err
}

// traceChild runs the command. The second interrupt or termination ends the trace; stopped is the exit status of that.
func traceChild(args []string, opts trace.Options) (result *trace.Result, stopped error, err error) {
	path, err := trace.FindCommand(args[0])
	if err != nil {
		return nil, nil, err
	}
	ctx, passed, release := commandSignals()
	defer release()
	result, err = trace.Command(ctx, path, args, passed, opts)
	return result, context.Cause(ctx), err
}

// commandSignals receives the signals that are for a command. The first interrupt or termination is the command's: it is
// passed on, unless the terminal has done that already. The second ends ctx, whose cause is the exit status of that.
func commandSignals() (ctx context.Context, passed chan os.Signal, release func()) {
	arrived := make(chan os.Signal, 8)
	signal.Notify(arrived, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	if !signal.Ignored(syscall.SIGHUP) { // nohup(1) is for the command too
		signal.Notify(arrived, syscall.SIGHUP)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	passed = make(chan os.Signal, 8)
	go func() {
		for n := 0; ; n++ {
			s := <-arrived
			if n > 0 {
				cancel(exitStatus(128 + int(s.(syscall.Signal))))
			}
			if (s == os.Interrupt || s == syscall.SIGQUIT) && inForeground() {
				continue
			}
			passed <- s
		}
	}()
	return ctx, passed, func() {
		signal.Stop(arrived)
		cancel(nil)
	}
}

// inForeground tells whether the terminal's signals reach this process, and so the command, which is in its group.
func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// commandFailure gives the exit status of a command that could not be run.
func commandFailure(err error) error {
	var exec *ptrace.ExecError
	switch {
	case !errors.As(err, &exec):
		return &failure{exitOwnFailure, err}
	case errors.Is(err, osexec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return &failure{exitNotFound, err}
	}
	return &failure{exitNotExecutable, err}
}

// passOn ends as the command did: with its exit status or by its signal.
func passOn(status *syscall.WaitStatus, stopped error) error {
	if status == nil {
		return stopped
	}
	if !status.Signaled() {
		if code := status.ExitStatus(); code != 0 {
			return exitStatus(code)
		}
		return nil
	}
	dieBy(status.Signal())
	return exitStatus(128 + int(status.Signal()))
}

// dieBy ends this process by a signal, without a core file of its own and without Go's report.
func dieBy(s syscall.Signal) {
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	var defaultAction [4]uint64 // struct sigaction of the kernel: SIG_DFL, no flags, no mask
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&defaultAction)), 0, 8, 0, 0)
	_ = unix.Kill(unix.Getpid(), s)
	time.Sleep(time.Second) // the signal may be delivered to another thread
}
