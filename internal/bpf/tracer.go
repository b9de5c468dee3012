package bpf

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
)

// Options are the settings of a Tracer, fixed when it is loaded.
type Options struct {
	Follow     bool // trace the children of the marked processes too
	EveryChain bool // walk every stack to its end, not a sample
	Stream     bool // send an event for every call
}

// Tracer is the loaded and attached trace program.
type Tracer struct {
	objects traceObjects
	shared  map[string]*ebpf.Map
	links   []link.Link
	mark    *link.Iter
	events  *ringbuf.Reader
	rows    *rowStore
}

// NewTracer loads the trace programs and attaches them. No task is traced until Mark.
func NewTracer(opts Options) (*Tracer, error) {
	kernelTypes := sync.OnceValues(btf.LoadKernelSpec)
	go kernelTypes() // while the maps are made
	spec, err := loadTrace()
	if err != nil {
		return nil, fmt.Errorf("read the built-in BPF object: %w", err)
	}
	if err := configure(spec, opts); err != nil {
		return nil, err
	}
	t := &Tracer{shared: map[string]*ebpf.Map{}}
	if err := t.load(spec, kernelTypes); err != nil {
		return nil, errors.Join(fmt.Errorf("load BPF programs: %w", err), t.Close())
	}
	if err := t.attach(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// load makes the maps first, so that the row store is ready when the verifier is done with the programs.
func (t *Tracer) load(spec *ebpf.CollectionSpec, kernelTypes func() (*btf.Spec, error)) error {
	for name, m := range spec.Maps {
		if strings.HasPrefix(name, ".") { // variables
			continue
		}
		made, err := ebpf.NewMap(m)
		if err != nil {
			return fmt.Errorf("make map %s: %w", name, err)
		}
		t.shared[name] = made
	}
	t.rows = newRowStore(t.shared, spec.Maps["shards"].InnerMap)
	types, err := kernelTypes()
	if err != nil {
		return err
	}
	return spec.LoadAndAssign(&t.objects, &ebpf.CollectionOptions{
		MapReplacements: t.shared,
		Programs:        ebpf.ProgramOptions{KernelTypes: types},
	})
}

func configure(spec *ebpf.CollectionSpec, opts Options) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count CPUs: %w", err)
	}
	spec.Maps["captures"].MaxEntries = uint32(cpus)
	settings := map[string]any{
		"follow":      opts.Follow,
		"every_chain": opts.EveryChain,
		"stream":      opts.Stream,
	}
	for name, value := range settings {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

func (t *Tracer) attach() error {
	p := &t.objects.tracePrograms
	// Children and execs are followed before any call is counted.
	for _, prog := range []*ebpf.Program{p.SchedProcessFork, p.SchedProcessExec, p.SchedProcessExit, p.SysEnter} {
		l, err := link.AttachTracing(link.TracingOptions{Program: prog})
		if err != nil {
			return fmt.Errorf("attach %v: %w", prog, err)
		}
		t.links = append(t.links, l)
	}
	var err error
	if t.mark, err = link.AttachIter(link.IterOptions{Program: p.Mark}); err != nil {
		return fmt.Errorf("attach the task iterator: %w", err)
	}
	if t.events, err = ringbuf.NewReader(t.objects.Events); err != nil {
		return fmt.Errorf("open the ring buffer: %w", err)
	}
	return nil
}

// Close detaches the programs and frees what they hold.
func (t *Tracer) Close() error {
	errs := []error{t.Detach()}
	if t.events != nil {
		errs = append(errs, t.events.Close())
	}
	if t.mark != nil {
		errs = append(errs, t.mark.Close())
	}
	errs = append(errs, t.rows.Close(), t.objects.Close())
	for _, m := range t.shared {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// Detach ends counting; what was counted can still be read.
func (t *Tracer) Detach() error {
	var errs []error
	for _, l := range t.links {
		errs = append(errs, l.Close())
	}
	t.links = nil
	return errors.Join(errs...)
}

// Mark starts the tracing of all threads of a process and returns how many threads are traced.
// The process number is one of the tracer's PID namespace; program is the object of its main executable.
func (t *Tracer) Mark(pid int, program ObjectID) (uint64, error) {
	err := errors.Join(t.objects.MarkPid.Set(uint32(pid)), t.objects.MarkProgram.Set(uint32(program)))
	if err != nil {
		return 0, fmt.Errorf("mark process %d: %w", pid, err)
	}
	// A thread that an unmarked one starts behind the iterator's back is found by the next round.
	for before := ^uint64(0); ; {
		if err := t.markOnce(); err != nil {
			return 0, fmt.Errorf("mark process %d: %w", pid, err)
		}
		live := t.Live()
		if live == before {
			return live, nil
		}
		before = live
	}
}

func (t *Tracer) markOnce() error {
	r, err := t.mark.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

// Live returns the number of traced threads that have not ended.
func (t *Tracer) Live() uint64 {
	var n uint64
	if t.objects.Live.Get(&n) != nil {
		return 0
	}
	return n
}

// Identify returns the object that the kernel takes the file behind mapped memory of this process for.
func (t *Tracer) Identify(mapped []byte) (ObjectID, error) {
	address := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mapped))))
	id, err := t.objects.Identify.Run(&ebpf.RunOptions{Context: struct{ Args [1]uint64 }{[1]uint64{address}}})
	if err != nil {
		return ObjectUnknown, fmt.Errorf("identify a mapped file: %w", err)
	}
	return ObjectID(id), nil
}

// Counts iterates over all counted (program, origin, via, system call) keys.
func (t *Tracer) Counts() iter.Seq2[CountKey, uint64] {
	return func(yield func(CountKey, uint64) bool) {
		var key traceCountKey
		var count traceCount
		entries := t.objects.Counts.Iterate()
		for entries.Next(&key, &count) {
			if !yield(key, count.Calls) {
				return
			}
		}
	}
}

// Tallies returns what the kernel counted about its own work, by program.
func (t *Tracer) Tallies() map[TallyKey]uint64 {
	tallies := map[TallyKey]uint64{}
	var key traceTallyKey
	var n uint64
	entries := t.objects.traceMaps.Tallies.Iterate()
	for entries.Next(&key, &n) {
		tallies[TallyKey{ObjectID(key.Program), traceTally(key.Tally)}] = n
	}
	return tallies
}

// Missed returns how often the kernel did not run the program at all because it was already running on the CPU.
func (t *Tracer) Missed() uint64 {
	stats, err := t.objects.SysEnter.Stats()
	if err != nil {
		return 0
	}
	return stats.RecursionMisses
}
