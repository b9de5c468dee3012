package enforce

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"bulkhead/internal/enforce/backend"
	"bulkhead/internal/enforce/inkernel"
	"bulkhead/internal/enforce/supervisor"
	"bulkhead/internal/kernel"
	"bulkhead/internal/ptrace"
)

// Options say what to enforce and how.
type Options struct {
	backend.Options
	// Backend is the one to use.
	Backend Backend
	// Signals, which may be nil, are passed on to the command.
	Signals <-chan os.Signal
}

// ExecError says that a command could not be started at all, and no fault of ours.
type ExecError = ptrace.ExecError

// Command runs a command with the environment, the folder and the standard files of this process under a policy until it
// and all its descendants have ended. The status is nil when ctx was done before that: the command was killed then.
func Command(ctx context.Context, path string, argv []string, opts Options) (*syscall.WaitStatus, error) {
	chosen, err := choose(opts)
	if err != nil {
		return nil, err
	}
	opts.Log("%s", chosen)
	started := func(pid int) { go ptrace.PassOn(ctx, opts.Signals, pid) }
	return chosen.command(ctx, path, argv, started, opts.Options)
}

// Process puts a running process under a policy.
func Process(ctx context.Context, pid int, opts Options) error {
	chosen, err := choose(opts)
	if err != nil {
		return err
	}
	if chosen.process == nil {
		return fmt.Errorf("the %s backend cannot join a running process: start it with bulkhead run, or use --backend kernel", chosen.name)
	}
	opts.Log("%s", chosen)
	return chosen.process(ctx, pid, opts.Options)
}

// Backend names a way to enforce.
type Backend string

// The backends. Auto takes the kernel's where it can give the guarantee that the policy asks for.
const (
	Auto       Backend = "auto"
	Kernel     Backend = "kernel"
	Supervisor Backend = "supervisor"
)

// ParseBackend returns the backend with a name.
func ParseBackend(name string) (Backend, error) {
	for _, b := range []Backend{Auto, Kernel, Supervisor} {
		if string(b) == name {
			return b, nil
		}
	}
	return "", fmt.Errorf("unknown backend %q: want auto, kernel or supervisor", name)
}

// choice is a backend with the reason that it was chosen for.
type choice struct {
	name      Backend
	guarantee string
	why       string
	command   func(context.Context, string, []string, func(int), backend.Options) (*syscall.WaitStatus, error)
	process   func(context.Context, int, backend.Options) error
}

func (c *choice) String() string {
	return fmt.Sprintf("%s backend (%s): %s", c.name, c.why, c.guarantee)
}

func choose(opts Options) (*choice, error) {
	answer := opts.OnViolation()
	if opts.Backend == Supervisor {
		return chooseSupervisor("as asked")
	}
	promise, err := inkernel.Promises(answer, opts.Start)
	c := &choice{
		name: Kernel, guarantee: promise.Guarantee, why: "as asked", command: inkernel.Command, process: inkernel.Process,
	}
	switch {
	case opts.Backend == Kernel:
		return c, err
	case err != nil:
		return chooseSupervisor("the kernel has no BPF LSM")
	case !promise.Prevents:
		return chooseSupervisor("without BPF LSM the kernel backend would kill after some calls have taken effect")
	case kernel.Have(kernel.TraceSyscalls) != nil:
		return chooseSupervisor("this user may not load BPF programs")
	}
	c.why = "the kernel can do it"
	return c, nil
}

func chooseSupervisor(why string) (*choice, error) {
	if err := kernel.Require(kernel.Supervisor); err != nil {
		return nil, fmt.Errorf("%w (bulkhead doctor tells all)", err)
	}
	return &choice{name: Supervisor, guarantee: supervisor.Guarantee, why: why, command: supervisor.Command, process: supervisor.Process}, nil
}
