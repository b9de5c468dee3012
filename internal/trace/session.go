package trace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"bulkhead/internal/attribution"
	"bulkhead/internal/bpf"
	"bulkhead/internal/cfi"
	"bulkhead/internal/dso"
	"bulkhead/internal/filecache"
	"bulkhead/internal/kernel"
	"bulkhead/internal/perf"
	"bulkhead/internal/region"
)

// Options say what to trace and how.
type Options struct {
	// Follow traces the children of the first process too.
	Follow bool
	// EveryChain walks every stack to its end; otherwise the first of each call site and a sample.
	EveryChain bool
	// Stream, if not nil, gets one JSON line for each call.
	Stream io.Writer
	// Conduits decides which objects are not charged.
	Conduits attribution.Conduits
	// GoBy says what Go programs are divided by.
	GoBy region.GoBy
	// Symbols are compartments that have functions of any object.
	Symbols []region.Symbols
	// Cache keeps unwind rows between runs, Start what else it takes to start: the BPF programs, as this kernel takes them,
	// and the names of libraries. Either may be nil.
	Cache *cfi.Cache
	Start *filecache.Cache
	// Started, if not nil, is called when all is in place and the target is about to run.
	Started func()
	// Ptrace stops the target at each call, which needs no rights, instead of looking on from the kernel.
	Ptrace bool
	// Log gets notes for the user, one line each.
	Log func(format string, args ...any)
}

// regions says how objects are divided.
func (o *Options) regions() region.Options {
	return region.Options{GoBy: o.GoBy, Symbols: o.Symbols, Conduits: o.Conduits}
}

const (
	// captureBytes bounds the captured stacks that wait for their rows.
	captureBytes = 256 << 20
	// remember is how long an ended process is kept for captures that are still queued.
	remember = time.Minute
	// maxFrames bounds a walk, in the kernel (MAX_FRAMES in walk.h) and here.
	maxFrames = 1024
)

// session is one trace. Data flows from the kernel's two buffers into the observations:
//
//	perf records ──► spaces, objects ──► rows into the kernel
//	BPF events ───► captures, walked here ──► seen
type session struct {
	opts    Options
	tracer  *bpf.Tracer // nil with ptrace
	counts  counter
	spaces  *spaces
	objects *objects
	seen    *observations
	stream  *streamer

	recordsMu sync.Mutex
	records   *perf.Reader
	buffer    []perf.Record
	lost      uint64 // perf records

	captures chan *capture
	room     *semaphore.Weighted
	walkers  sync.WaitGroup
	readers  sync.WaitGroup
	stop     chan struct{}
}

// counter has what the kernel part has counted.
type counter interface {
	Counts() iter.Seq2[bpf.CountKey, uint64]
	Tallies() map[bpf.TallyKey]uint64
	Missed() uint64
}

// openRecords starts the records of mappings, which have to be there before a command starts.
func openRecords() (*perf.Reader, error) {
	records, err := perf.Open()
	if err != nil {
		return nil, explain(err)
	}
	return records, nil
}

// newSession has everything in place; nothing is traced yet. The records belong to it from now on.
func newSession(opts Options, rows *rowReader, records *perf.Reader) (*session, error) {
	if opts.Log == nil {
		opts.Log = func(string, ...any) {}
	}
	if opts.Started == nil {
		opts.Started = func() {}
	}
	tracer, err := bpf.NewTracer(bpf.Options{
		Follow: opts.Follow, EveryChain: opts.EveryChain, Stream: opts.Stream != nil, Cache: opts.Start,
	})
	if err != nil {
		return nil, errors.Join(explain(err), records.Close())
	}
	s := &session{
		opts: opts, tracer: tracer, counts: tracer, records: records,
		spaces:   newSpaces(),
		seen:     newObservations(),
		captures: make(chan *capture, 1<<16),
		room:     semaphore.NewWeighted(captureBytes),
		stop:     make(chan struct{}),
	}
	if s.objects, err = newObjects(kernelNumbers{tracer}, rows); err != nil {
		return nil, errors.Join(err, tracer.Close(), records.Close())
	}
	s.stream = newStreamer(opts.Stream, s.objects)
	s.readers.Add(2)
	go s.followRecords()
	go s.readEvents()
	s.walkers.Add(1)
	go s.walkCaptures()
	return s, nil
}

// explain replaces the kernel's refusal by what is missing and the remedy, where the probes find it.
func explain(err error) error {
	var missing *kernel.NotSupported
	if errors.As(kernel.Require(kernel.Trace), &missing) {
		return fmt.Errorf("%w (bulkhead doctor tells all; --backend ptrace needs none of it)", missing)
	}
	return err
}

// start begins the trace of a process that does not run at the moment or that ran before.
func (s *session) start(pid int) error {
	mapped, err := s.spaces.snapshot(pid)
	if err != nil {
		return err
	}
	for _, m := range mapped {
		s.prepare(m)
	}
	s.objects.wait() // or every call of a running process would be captured
	program, err := s.objects.program(pid)
	if err != nil {
		return err
	}
	s.seen.program(program)
	threads, err := s.tracer.Mark(pid, program)
	if err != nil {
		return err
	}
	if threads == 0 {
		return fmt.Errorf("process %d has ended or is a kernel thread", pid)
	}
	s.opts.Started()
	return nil
}

// prepare loads the rows of a mapped file. A file that is gone already shows up again in the captures of its stacks.
func (s *session) prepare(m processMapping) *object {
	obj, err := s.objects.openMapping(m)
	if err != nil {
		return nil
	}
	if obj != nil && m.image != (dso.FileID{}) && !strings.HasPrefix(m.File.Path, "[v") { // every process has [vdso] and [vsyscall]
		s.seen.mapped(m.image, obj.id)
	}
	return obj
}

// followRecords keeps up with the mappings of the target.
func (s *session) followRecords() {
	defer s.readers.Done()
	for {
		select {
		case <-s.stop:
			return
		default:
		}
		if err := s.records.Wait(100 * time.Millisecond); err != nil {
			s.opts.Log("waiting for mapping records: %v", err)
			return
		}
		s.syncRecords()
	}
}

// syncRecords takes in all that the kernel has recorded so far.
func (s *session) syncRecords() {
	s.recordsMu.Lock()
	defer s.recordsMu.Unlock()
	// A record of one processor may be read before an older one of another: what is newer than this moment waits.
	now := monotonic()
	s.buffer = s.records.Drain(s.buffer)
	ready, _ := slices.BinarySearchFunc(s.buffer, now, func(r perf.Record, at uint64) int { return cmp.Compare(r.Time, at) })
	if ready == 0 {
		return
	}
	for _, r := range s.buffer[:ready] {
		s.lost += r.Count
	}
	for _, m := range s.spaces.apply(s.buffer[:ready]) {
		s.prepare(m)
	}
	s.spaces.forget(now, remember)
	s.buffer = s.buffer[:copy(s.buffer, s.buffer[ready:])]
}

// monotonic is the clock of perf records and BPF events, in nanoseconds.
func monotonic() uint64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return math.MaxUint64 // never seen; then nothing waits
	}
	return uint64(now.Nano())
}

// readEvents empties the ring buffer until the session ends.
func (s *session) readEvents() {
	defer s.readers.Done()
	defer close(s.captures)
	hurry()
	var r bpf.Record
	for {
		err := s.tracer.Read(&r)
		if errors.Is(err, bpf.ErrFlushed) {
			return
		}
		if err != nil {
			s.opts.Log("reading events: %v", err)
			return
		}
		switch bpf.EventKind(r.Kind) {
		case bpf.EventProgram:
			s.seen.program(bpf.ObjectID(r.Key.Program))
		case bpf.EventStack:
			s.seen.stack(r.Key, r.Frames, s.sequence(r.Frames), r.End == bpf.WalkOutermost)
		case bpf.EventCall:
			s.stream.call(&r.Event)
		case bpf.EventCapture:
			s.queue(&r)
		}
	}
}

// hurry gives the calling goroutine a thread of its own that runs before others: the ring buffer must be emptied while
// the target and the making of rows use all processors. Without the right to that it stays as it is.
func hurry() {
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -20)
}

func (s *session) queue(r *bpf.Record) {
	c := newCapture(r)
	// Background: the session ends when the ring is empty.
	if err := s.room.Acquire(context.Background(), c.bytes()); err != nil {
		s.opts.Log("queueing a stack: %v", err)
		return
	}
	s.captures <- c
}

// end stops the trace and waits until everything captured is accounted for.
func (s *session) end() error {
	err := errors.Join(s.tracer.Detach(), s.tracer.Flush())
	close(s.stop)
	err = errors.Join(err, s.records.Interrupt())
	s.walkers.Wait()
	s.readers.Wait()
	s.objects.wait()
	return err
}

func (s *session) close() error {
	return errors.Join(s.tracer.Close(), s.records.Close())
}
