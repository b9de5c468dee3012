package trace

import (
	"context"
	"fmt"
	"iter"
	"os"
	"sync"
	"syscall"

	"bulkhead/internal/bpf"
	"bulkhead/internal/cfi"
	"bulkhead/internal/dso"
	"bulkhead/internal/ptrace"
	"bulkhead/internal/syscalls"
)

// stops is a trace without the kernel part: every thread stops at each of its calls, and its stack is walked while it
// stands still. It makes the same observations.
type stops struct {
	*session
}

func newStops(opts Options, rows *rowReader) (*stops, error) {
	if opts.Log == nil {
		opts.Log = func(string, ...any) {}
	}
	s := &session{opts: opts, counts: nothingCounted{}, spaces: newSpaces(), seen: newObservations()}
	var err error
	if s.objects, err = newObjects(&ownNumbers{known: map[identity]bpf.ObjectID{}}, rows); err != nil {
		return nil, err
	}
	s.stream = newStreamer(opts.Stream, s.objects)
	return &stops{s}, nil
}

func commandByPtrace(ctx context.Context, path string, argv []string, signals <-chan os.Signal, opts Options) (*Result, error) {
	rows := newRowReader(opts)
	go rows.ahead(path)
	if opts.Started == nil {
		opts.Started = func() {}
	}
	s, err := newStops(opts, rows)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started := func(pid int) {
		opts.Started()
		go ptrace.PassOn(ctx, signals, pid)
	}
	status, err := ptrace.Command(ctx, path, argv, started, ptrace.Options{
		Handler: s, Follow: opts.Follow,
		Ended: func(syscall.WaitStatus) {
			s.opts.Log("%s has ended, but processes that it started have not: tracing goes on until they end or Ctrl-C", path)
		},
	})
	return s.finish(status, err)
}

func processByPtrace(ctx context.Context, pid int, opts Options) (*Result, error) {
	s, err := newStops(opts, newRowReader(opts))
	if err != nil {
		return nil, err
	}
	started := func(int) { s.opts.Log("tracing process %d; Ctrl-C ends the trace, not the process", pid) }
	err = ptrace.Attach(ctx, pid, started, ptrace.Options{Handler: s, Follow: opts.Follow})
	return s.finish(nil, err)
}

func (s *stops) finish(status *syscall.WaitStatus, err error) (*Result, error) {
	if err != nil {
		return nil, err
	}
	s.objects.wait()
	return &Result{Document: s.document(), Status: status}, s.stream.failed()
}

// Exec implements ptrace.Handler.
func (s *stops) Exec(p *ptrace.Process) bool {
	program, err := s.objects.program(p.PID)
	if err != nil {
		s.opts.Log("process %d executes what cannot be read: %v", p.PID, err)
	}
	p.Data = &running{program: program}
	if len(s.seen.programs) == 0 {
		s.seen.program(program)
	}
	return true
}

// running is the program that a process runs.
type running struct {
	program    bpf.ObjectID
	image      dso.FileID
	generation uint64 // of the mappings that were noted last
}

// Fork implements ptrace.Handler.
func (s *stops) Fork(parent, child *ptrace.Process) {
	r := *parent.Data.(*running)
	r.generation = 0
	child.Data = &r
}

// noteMappings takes in what a process has executable.
func (s *stops) noteMappings(t *ptrace.Thread, r *running) {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", t.TID))
	for _, m := range t.Mappings() {
		if err == nil && r.image == (dso.FileID{}) && m.File.Path == dso.MappedPath(path) {
			r.image = m.File
		}
	}
	for _, m := range t.Mappings() {
		s.prepare(processMapping{t.TID, mapping{0, m}, r.image})
	}
}

// bpfABIs are the kernel part's numbers of ABIs.
var bpfABIs = [...]uint32{
	syscalls.AMD64: uint32(bpf.ABIAMD64), syscalls.I386: uint32(bpf.ABII386), syscalls.X32: uint32(bpf.ABIX32),
}

// Call implements ptrace.Handler: it attributes one call.
func (s *stops) Call(t *ptrace.Thread) ptrace.Verdict {
	running := t.Process.Data.(*running)
	if g := t.Generation(); g != running.generation {
		s.noteMappings(t, running)
		running.generation = g
	}
	event := bpf.Event{
		Key: bpf.CountKey{Program: uint32(running.program), Nr: t.Call.NR, Abi: bpfABIs[t.Call.ABI]},
		Pid: uint32(t.Process.PID), Tid: uint32(t.TID), Time: monotonic(),
		Flags: uint32(bpf.CaptureCount | bpf.CaptureChain),
	}
	var frames []bpf.Frame
	known, err := t.Registers()
	if err != nil {
		return ptrace.GoOn() // it has been killed
	}
	regs := cfi.Regs{GPR: ptrace.InDWARFOrder(known), IP: known.Rip, InSyscall: true}
	err = cfi.Walk(&regs, t.Memory, func(address uint64) (*cfi.Table, uint64, bool) {
		obj, frame := s.at(t, address)
		if obj == nil {
			return nil, 0, false
		}
		<-obj.loaded
		frames = append(frames, frame)
		return obj.table.get(), uint64(frame.Offset), true
	}, maxFrames, func(cfi.Frame) bool { return true })
	s.account(&capture{event: event}, frames, err == nil)
	return ptrace.GoOn()
}

// at names the code at an address of a stopped thread.
func (s *stops) at(t *ptrace.Thread, address uint64) (*object, bpf.Frame) {
	m := t.Find(address)
	if m == nil {
		return nil, bpf.Frame{}
	}
	obj := s.prepare(processMapping{pid: t.TID, mapping: mapping{0, *m}})
	if obj == nil {
		obj = s.gone(m)
	}
	if obj.id == bpf.ObjectAnonymous {
		return obj, bpf.Frame{Object: uint32(obj.id)}
	}
	return obj, bpf.Frame{Object: uint32(obj.id), Offset: uint32(address - m.Start + m.Offset)}
}

// gone stands for a mapped file that cannot be opened any more: without rows, under its name.
func (s *stops) gone(m *dso.Mapping) *object {
	id := s.objects.numbers.(*ownNumbers).fresh()
	return s.objects.lose(id, mapping{0, *m})
}

// ownNumbers counts files.
type ownNumbers struct {
	mu    sync.Mutex
	last  bpf.ObjectID
	known map[identity]bpf.ObjectID
}

// firstOwn is above the numbers that stand for something.
const firstOwn = 16

func (n *ownNumbers) identify(file *os.File) (bpf.ObjectID, error) {
	id, err := identityOf(file)
	if err != nil {
		return bpf.ObjectUnknown, err
	}
	n.mu.Lock()
	known, ok := n.known[id]
	n.mu.Unlock()
	if !ok {
		known = n.fresh()
		n.mu.Lock()
		n.known[id] = known
		n.mu.Unlock()
	}
	return known, nil
}

func (n *ownNumbers) fresh() bpf.ObjectID {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = max(n.last+1, firstOwn)
	return n.last
}

func (n *ownNumbers) loadObject(bpf.ObjectID, *cfi.Table, []bpf.RegionFlags) error { return nil }

// nothingCounted is the counter of a trace whose calls are all seen here.
type nothingCounted struct{}

func (nothingCounted) Counts() iter.Seq2[bpf.CountKey, uint64] {
	return func(func(bpf.CountKey, uint64) bool) {}
}
func (nothingCounted) Tallies() map[bpf.TallyKey]uint64 { return nil }
func (nothingCounted) Missed() uint64                   { return 0 }
