package inkernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/internal/attribution"
	"bulkhead/internal/bpf"
	"bulkhead/internal/dso"
	"bulkhead/internal/enforce/backend"
	"bulkhead/internal/kernel"
	"bulkhead/internal/policy"
	"bulkhead/internal/ptrace"
	"bulkhead/internal/region"
	"bulkhead/internal/syscalls"
)

// session is one target under a policy.
type session struct {
	opts     backend.Options
	covered  func(syscalls.ABI, int) bool
	enforcer *bpf.Enforcer
	reader   *reader
	objects  *objects
	rules    atomic.Pointer[ruleset]
	old      sync.Map // bpf generation → *ruleset
	pins     string   // folder of the pinned programs
	hooks    []string // attached
	control  *control

	mu       sync.Mutex
	paths    map[string]bpf.ObjectID // the file that was first seen at a path
	closures sync.Map                // path → func()
	readers  sync.WaitGroup
}

// division divides objects for all programs of a policy at once: the kernel keeps one set of rows of each.
func division(p *policy.Policy) region.Options {
	conduits, _ := attribution.NewConduits(p.Conduits...) // checked when the policy was read
	var programs []*policy.Program
	for i := range p.Programs {
		programs = append(programs, &p.Programs[i])
	}
	return backend.Division(conduits, programs...)
}

// Command runs a command under a policy until it and all its descendants have ended. started gets its process id. When ctx
// is done, it is killed.
func Command(ctx context.Context, path string, argv []string, started func(pid int), opts backend.Options) (*syscall.WaitStatus, error) {
	reader := newReader(opts.Cache, division(opts.Policy))
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		reader.ahead(resolved)
	}
	s, err := newSession(opts, reader)
	if err != nil {
		return nil, err
	}
	rules := s.rules.Load()
	filter, err := newFilter(rules.filters, rules.answer).Compile()
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	var governed atomic.Bool
	answer := func(n *notification) unix.Errno {
		if !governed.Load() {
			return 0
		}
		return s.before(n)
	}
	serve := func(listener int) {
		s.readers.Go(func() {
			if err := listen(listener, answer); err != nil {
				s.opts.Log("code that is new to the command stays unknown from now on: %v", err)
			}
		})
	}
	child, err := ptrace.Launch(path, argv, func(pid int) error {
		program, err := s.enter(pid)
		if err != nil {
			return err
		}
		if err := ptrace.Listen(pid, filter, serve); err != nil {
			return fmt.Errorf("put %s under a seccomp filter: %w", path, err)
		}
		governed.Store(true)
		return s.govern(pid, program)
	})
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.prepareImages()
	s.serve(child.Pid)
	started(child.Pid)
	return s.wait(ctx, child, path)
}

func newSession(opts backend.Options, reader *reader) (*session, error) {
	s := &session{opts: opts, reader: reader, paths: map[string]bpf.ObjectID{}}
	hooks, covered, err := chooseHooks(opts.Policy, opts.OnViolation(), opts.Start)
	if err != nil {
		return nil, err
	}
	s.hooks, s.covered = hooks, covered
	sweep()
	if s.enforcer, err = bpf.NewEnforcer(hooks, opts.Start); err != nil {
		return nil, explain(err)
	}
	s.objects = newObjects(s.enforcer, reader)
	if err := s.begin(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// begin puts the policy into force, for nobody yet, and keeps the programs in force should this process die.
func (s *session) begin() error {
	rules := newRuleset(s.opts.Policy, s.opts.OnViolation(), s.covered)
	if err := rules.load(s.enforcer); err != nil {
		return err
	}
	anonymous, vdso, err := s.objects.memory()
	if err != nil {
		return err
	}
	if err := errors.Join(rules.bind(anonymous), rules.bind(vdso), rules.kernel.Enforce()); err != nil {
		return err
	}
	s.use(rules)
	if s.pins, err = pin(s.enforcer); err != nil {
		return err
	}
	s.readers.Go(s.readViolations)
	return nil
}

func (s *session) use(rules *ruleset) {
	s.old.Store(rules.kernel.Generation(), rules)
	s.rules.Store(rules)
}

// explain replaces the kernel's refusal by what is missing and the remedy, where the probes find it.
func explain(err error) error {
	var missing *kernel.NotSupported
	if errors.As(kernel.Require(kernel.KernelKill), &missing) {
		return fmt.Errorf("%w (bulkhead doctor tells all)", missing)
	}
	return err
}

// enter loads all code of a stopped process, and what its loader is about to map. It returns its program.
func (s *session) enter(pid int) (*object, error) {
	path, err := backend.Executable(pid)
	if err != nil {
		return nil, err
	}
	program, err := s.openPath(fmt.Sprintf("/proc/%d/exe", pid), path)
	if err != nil {
		return nil, err
	}
	if listed, err := s.rules.Load().name(program); err != nil {
		return nil, err
	} else if !listed {
		return nil, fmt.Errorf("%s may not run: the policy lists no [[program]] with its path", path)
	}
	mappings, err := dso.Mappings(pid)
	if err != nil {
		return nil, err
	}
	for _, m := range mappings {
		if !m.File.Backed() {
			continue
		}
		file, err := dso.OpenMapped(pid, m)
		if err == nil {
			_, err = s.open(file, m.File.Path)
		}
		if err != nil {
			s.opts.Log("%s stays unknown: %v", m.File.Path, err)
		}
	}
	s.openClosure(path)
	return program, nil
}

// govern puts a process under the policy.
func (s *session) govern(pid int, program *object) error {
	threads, err := s.enforcer.Mark(pid, program.id)
	if err == nil && threads == 0 {
		err = fmt.Errorf("process %d has ended or is a kernel thread", pid)
	}
	return err
}

func (s *session) openPath(file, path string) (*object, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	return s.open(f, path)
}

// open loads the code of an open file and binds it to its compartment. A file that is not the one that was first seen at
// its path stays unknown: whoever changed it could be the one to be kept from something.
func (s *session) open(file *os.File, path string) (*object, error) {
	obj, err := s.objects.open(file, path)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	first, seen := s.paths[path]
	if !seen {
		s.paths[path] = obj.id
	}
	s.mu.Unlock()
	if seen && first != obj.id {
		return nil, fmt.Errorf("it has changed since it was first used: apply the policy again")
	}
	return obj, s.rules.Load().bind(obj)
}

// openClosure loads the libraries that a program's loader will map, each in turn on as many processors as there are.
func (s *session) openClosure(path string) {
	once, _ := s.closures.LoadOrStore(path, sync.OnceFunc(func() {
		var loading sync.WaitGroup
		for _, library := range s.reader.libraries(path) {
			loading.Go(func() {
				if _, err := s.openPath(library, library); err != nil {
					s.opts.Log("%s stays unknown: %v", library, err)
				}
			})
		}
		loading.Wait()
	}))
	once.(func())()
}

// prepareImages loads the other programs that the policy lists, so that executing them does not have to wait.
func (s *session) prepareImages() {
	rules := s.rules.Load()
	s.readers.Go(func() {
		for _, i := range rules.filters.images {
			if !strings.ContainsAny(i.rules.Program.Path, "*?[") {
				_, _ = s.prepareProgram(i.rules.Program.Path) // it need not be there
			}
		}
	})
}

// prepareProgram loads a program that is going to be executed, and returns whether the policy lists it.
func (s *session) prepareProgram(path string) (listed bool, err error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false, err
	}
	program, err := s.openPath(resolved, resolved)
	if err != nil {
		return false, err
	}
	listed, err = s.rules.Load().name(program)
	if listed {
		s.openClosure(resolved)
	}
	return listed, err
}

// wait returns when the child and all its descendants have ended.
func (s *session) wait(ctx context.Context, child *os.Process, path string) (*syscall.WaitStatus, error) {
	ended := make(chan *os.ProcessState, 1)
	go func() {
		state, err := child.Wait()
		if err != nil {
			s.opts.Log("waiting for %s: %v", path, err)
		}
		ended <- state
	}()
	select {
	case state := <-ended:
		if s.enforcer.Live() > 0 && !s.drained(ctx, settle) {
			s.opts.Log("%s has ended, but processes that it started have not: they stay under the policy until they end or Ctrl-C", path)
			s.drained(ctx, forever)
		}
		status := state.Sys().(syscall.WaitStatus)
		return &status, s.end()
	case <-ctx.Done():
		err := child.Kill()
		<-ended
		return nil, errors.Join(err, s.end())
	}
}

const (
	pollLive = 10 * time.Millisecond
	settle   = 100 * time.Millisecond // what threads that are ending take
	forever  = 1 << 62
)

// drained waits until no task is under the policy.
func (s *session) drained(ctx context.Context, limit time.Duration) bool {
	for waited := time.Duration(0); s.enforcer.Live() > 0; waited += pollLive {
		if waited >= limit || ctx.Err() != nil {
			return false
		}
		time.Sleep(pollLive)
	}
	return true
}

// end tells the last denials and leaves nothing behind, unless there are still processes under the policy: those keep it.
func (s *session) end() error {
	if lost, unstopped := s.enforcer.Losses(); lost+unstopped > 0 {
		s.opts.Log("%d denials could not be told, %d calls or tasks could not be stopped", lost, unstopped)
	}
	return s.close()
}

// release lets go of those that are still under the policy.
func (s *session) release() error {
	dir := s.pins
	s.pins = ""
	return errors.Join(unpin(dir), s.enforcer.Flush())
}

func (s *session) close() error {
	errs := []error{s.control.close()}
	if s.pins != "" {
		if s.enforcer.Live() > 0 {
			s.opts.Log("processes that are still there stay under the policy; bulkhead doctor --clean removes it when they have ended")
		} else {
			errs = append(errs, unpin(s.pins))
		}
		errs = append(errs, s.enforcer.Flush())
	}
	s.readers.Wait()
	return errors.Join(append(errs, s.enforcer.Close())...)
}

// before answers a call that brings new code, once that is loaded, and one that no compartment may make.
func (s *session) before(n *notification) unix.Errno {
	name, _ := syscalls.Name(n.abi(), int(n.call.nr))
	switch {
	case !s.rules.Load().filters.anyAllows(n.abi(), int(n.call.nr)):
		return s.refuse(n)
	case name == "execve" || name == "execveat":
		return s.beforeExec(n, name)
	case before[name] != nil:
		s.beforeMap(n)
	}
	return 0
}

// beforeMap loads a file that is about to be mapped executable.
func (s *session) beforeMap(n *notification) {
	file, path, err := n.mapped()
	if err == nil {
		_, err = s.open(file, dso.MappedPath(path))
	}
	if err != nil {
		s.opts.Log("%s stays unknown: %v", path, err)
	}
}

// beforeExec loads a program that is about to be executed. One that the policy does not list is refused here, where that
// can be told in good time; in any case its first call is.
func (s *session) beforeExec(n *notification, name string) unix.Errno {
	path, known := backend.Named(int(n.pid), name, n.call.args, n.memory)
	if !known {
		return 0
	}
	listed, err := s.prepareProgram(path)
	if err != nil {
		s.opts.Log("%s stays unknown: %v", path, err)
	}
	rules := s.rules.Load()
	if !listed && rules.answer == policy.Deny && rules.policy.OnExec == policy.DenyExec {
		s.report(s.deniedExec(n, rules, path))
		return unix.EPERM
	}
	return 0
}

// refuse answers a call that no compartment may make.
func (s *session) refuse(n *notification) unix.Errno {
	rules := s.rules.Load()
	s.report(s.deniedToAll(n, rules))
	if rules.answer == policy.Kill {
		_ = unix.Kill(int(n.pid), unix.SIGKILL)
	}
	return rules.filters.images[0].rules.Errno(n.abi(), int(n.call.nr))
}

func (s *session) readViolations() {
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -20)
	var v bpf.Violation
	for {
		err := s.enforcer.Read(&v)
		if errors.Is(err, bpf.ErrFlushed) {
			return
		}
		if err != nil {
			s.opts.Log("reading denials: %v", err)
			return
		}
		s.report(s.denial(&v))
	}
}

// programPath is that of a process for which no more is known.
func programPath(pid int) string {
	path, err := backend.Executable(pid)
	if err != nil {
		return attribution.Unknown
	}
	return path
}

// Process puts a running process with all its threads under a policy, until it and its descendants have ended or ctx is
// done: then they run on without one.
func Process(ctx context.Context, pid int, opts backend.Options) error {
	s, err := newSession(opts, newReader(opts.Cache, division(opts.Policy)))
	if err != nil {
		return err
	}
	program, err := s.enter(pid)
	if err == nil {
		err = s.govern(pid, program)
	}
	if err != nil {
		return errors.Join(err, s.close())
	}
	s.prepareImages()
	s.serve(pid)
	s.opts.Log("process %d is under the policy; Ctrl-C ends that, not the process", pid)
	if !s.drained(ctx, forever) {
		return errors.Join(s.release(), s.end())
	}
	return s.end()
}
