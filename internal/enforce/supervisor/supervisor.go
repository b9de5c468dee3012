package supervisor

import (
	"cmp"
	"context"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"bulkhead/internal/enforce/backend"
	"bulkhead/internal/policy"
	"bulkhead/internal/ptrace"
	"bulkhead/internal/syscalls"
)

// Guarantee is what this backend promises, in one line.
const Guarantee = "a call that is not allowed fails before any effect; if bulkhead ends, so does the command"

// supervisor decides about the stops of a target. It belongs to the tracer's thread.
type supervisor struct {
	opts       backend.Options
	answer     policy.OnViolation
	privileged bool
	objects    *objects
	images     map[imageKey]*image
	listed     map[string]backend.Identity // the files of the images that the policy lists, by path
	walker     *walker
	refused    error // why the command could not start
}

// Command runs a command under a policy until it and all its descendants have ended. started gets its process id. When ctx
// is done, all are killed.
func Command(ctx context.Context, path string, argv []string, started func(pid int), opts backend.Options) (*syscall.WaitStatus, error) {
	s, options, err := prepare(opts)
	if err != nil {
		return nil, err
	}
	s.objects.ahead(path)
	options.Ended = func(syscall.WaitStatus) {
		opts.Log("%s has ended, but processes that it started have not: they stay supervised until they end or Ctrl-C", path)
	}
	status, err := ptrace.Command(ctx, path, argv, started, options)
	return status, cmp.Or(s.refused, err)
}

// Process puts a running process under a policy until it and all its descendants have ended. When ctx is done, all are
// killed: a filter cannot be taken away again, and without its supervisor it fails what it does not know.
func Process(ctx context.Context, pid int, opts backend.Options) error {
	s, options, err := prepare(opts)
	if err != nil {
		return err
	}
	started := func(int) { opts.Log("process %d is under the policy; Ctrl-C kills it", pid) }
	err = ptrace.Attach(ctx, pid, started, options)
	return cmp.Or(s.refused, err)
}

func prepare(opts backend.Options) (*supervisor, ptrace.Options, error) {
	s, err := newSupervisor(opts)
	if err != nil {
		return nil, ptrace.Options{}, err
	}
	filter, err := newFilter(opts.Policy).Compile()
	if err != nil {
		return nil, ptrace.Options{}, err
	}
	// A target of the same user could otherwise trace this process, or write into its memory.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, ptrace.Options{}, fmt.Errorf("protect the supervisor from its target: %w", err)
	}
	return s, ptrace.Options{Handler: s, Filter: filter, Follow: true, DieWithTracer: true}, nil
}

func newSupervisor(opts backend.Options) (*supervisor, error) {
	objects, err := newObjects(opts.Cache)
	if err != nil {
		return nil, err
	}
	return &supervisor{
		opts: opts, answer: opts.OnViolation(), privileged: mayTraceAll(), objects: objects,
		images: map[imageKey]*image{}, listed: listed(opts.Policy), walker: newWalker(),
	}, nil
}

// mayTraceAll tells whether this process has CAP_SYS_PTRACE.
func mayTraceAll() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_PTRACE) != 0
}

// Call implements ptrace.Handler.
func (s *supervisor) Call(t *ptrace.Thread) ptrace.Verdict {
	i := t.Process.Data.(*image)
	abi, nr := t.Call.ABI, int(t.Call.NR)
	if g := guarded(&t.Call); g != nil && !(g.call == "prctl" && s.privileged) {
		return s.violated(t, i, &violation{guard: g, errno: unix.EPERM})
	}
	switch i.rules.Class(abi, nr) {
	case policy.AllowedToNone:
		ids, at := s.on(t, i).charged(i.rules.Check)
		return s.violated(t, i, &violation{id: ids[0], frame: at[0], errno: i.rules.Errno(abi, nr)})
	case policy.Conditional:
		ids, at := s.on(t, i).charged(i.rules.Check)
		for n, id := range ids {
			if !i.rules.Allows(id, abi, nr) {
				return s.violated(t, i, &violation{id: id, frame: at[n], errno: i.rules.Errno(abi, nr)})
			}
		}
	}
	if ptrace.Executes(abi, nr) && s.opts.Policy.OnExec == policy.DenyExec {
		return s.executes(t, i)
	}
	return ptrace.GoOn()
}

// executes answers an execve of an image that the policy does not list.
func (s *supervisor) executes(t *ptrace.Thread, i *image) ptrace.Verdict {
	call, _ := syscalls.Name(t.Call.ABI, int(t.Call.NR))
	path, known := backend.Named(t.TID, call, t.Call.Args, t.Memory.ReadString)
	if !known {
		return ptrace.GoOn()
	}
	if _, ok := s.govern(path, path, i); ok {
		return ptrace.GoOn()
	}
	return s.violated(t, i, &violation{image: path, errno: unix.EPERM})
}

// on sets the walker on a stopped thread.
func (s *supervisor) on(t *ptrace.Thread, i *image) *walker {
	table, _ := t.Process.Space.Data.(*codeTable)
	if table == nil || table.image != i {
		table = &codeTable{image: i}
		t.Process.Space.Data = table
	}
	s.walker.image, s.walker.thread, s.walker.table = i, t, table
	return s.walker
}
