package bpf

import (
	"errors"
	"fmt"
	"iter"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"bulkhead/internal/filecache"
)

// Options are the settings of a Tracer, fixed when it is loaded.
type Options struct {
	Follow     bool // trace the children of the marked processes too
	EveryChain bool // walk every stack to its end, not a sample
	Stream     bool // send an event for every call
	// Cache keeps what loading computes between runs; nil: nothing is kept.
	Cache *filecache.Cache
}

// Tracer is the loaded and attached trace program.
type Tracer struct {
	programs
	events *ringbuf.Reader
}

// NewTracer loads the trace programs and attaches them. No task is traced until Mark.
func NewTracer(opts Options) (*Tracer, error) {
	spec, err := loadTrace()
	if err != nil {
		return nil, fmt.Errorf("read the built-in BPF object: %w", err)
	}
	if err := configure(spec, opts); err != nil {
		return nil, err
	}
	t := new(Tracer)
	if err := t.load(spec, _TraceBytes, opts.Cache); err != nil {
		return nil, errors.Join(fmt.Errorf("load BPF programs: %w", err), t.Close())
	}
	if err := t.attach(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
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
	// Children and execs are followed before any call is counted.
	err := t.programs.attach("mark", "sched_process_fork", "sched_process_exec", "sched_process_exit", "sys_enter")
	if err != nil {
		return err
	}
	if t.events, err = ringbuf.NewReader(t.shared["events"]); err != nil {
		return fmt.Errorf("open the ring buffer: %w", err)
	}
	return nil
}

// Close detaches the programs and frees what they hold.
func (t *Tracer) Close() error {
	var err error
	if t.events != nil {
		err = t.events.Close()
	}
	return errors.Join(err, t.programs.close())
}

// Counts iterates over all counted (program, origin, via, system call) keys.
func (t *Tracer) Counts() iter.Seq2[CountKey, uint64] {
	return func(yield func(CountKey, uint64) bool) {
		var key traceCountKey
		var count traceCount
		entries := t.shared["counts"].Iterate()
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
	entries := t.shared["tallies"].Iterate()
	for entries.Next(&key, &n) {
		tallies[TallyKey{ObjectID(key.Program), traceTally(key.Tally)}] = n
	}
	return tallies
}

// Missed returns how often the kernel did not run the program at all because it was already running on the CPU.
func (t *Tracer) Missed() uint64 {
	stats, err := t.loaded.Programs["sys_enter"].Stats()
	if err != nil {
		return 0
	}
	return stats.RecursionMisses
}
