package trace

import (
	"encoding/binary"
	"slices"

	"bulkhead/internal/bpf"
	"bulkhead/internal/cfi"
	"bulkhead/internal/region"
)

// capture is a stack that the kernel could not walk: the rows of an object were not loaded yet, or the mappings were
// being changed. It is walked here, with the mappings as they were at that moment.
type capture struct {
	event  bpf.Event
	end    bpf.WalkEnd
	object bpf.ObjectID
	regs   bpf.Registers
	memory capturedMemory
}

// capturedMemory is the stack, and those that the walk goes on with after a switch.
type capturedMemory []cfi.StackCopy

// ReadWord implements [cfi.Memory].
func (m capturedMemory) ReadWord(addr uint64) (word uint64, err error) {
	for _, piece := range m {
		if word, err = piece.ReadWord(addr); err == nil {
			break
		}
	}
	return word, err
}

func newCapture(r *bpf.Record) *capture {
	c := &capture{event: r.Event, end: r.End, object: r.Object, regs: r.Regs}
	data := slices.Clone(r.Stack)
	for _, p := range r.Pieces {
		c.memory = append(c.memory, cfi.StackCopy{Base: p.At, Data: data[:p.Bytes]})
		data = data[p.Bytes:]
	}
	return c
}

// bytes is what a queued capture holds, about.
func (c *capture) bytes() int64 {
	n := 256
	for _, piece := range c.memory {
		n += len(piece.Data)
	}
	return int64(n)
}

// walkCaptures walks what comes. Stacks that lead through an object whose rows are still being made are set aside until
// they are there, so that one large file does not keep all others waiting.
func (s *session) walkCaptures() {
	defer s.walkers.Done()
	early, aside, loaded := earlyRows{}, map[*object][]*capture{}, make(chan *object)
	take := func(c *capture) {
		waitsFor := s.walk(c, early)
		if waitsFor == nil {
			s.room.Release(c.bytes())
			return
		}
		if aside[waitsFor] == nil {
			go func() { <-waitsFor.loaded; loaded <- waitsFor }()
		}
		aside[waitsFor] = append(aside[waitsFor], c)
	}
	for captures := s.captures; captures != nil || len(aside) > 0; {
		select {
		case c, more := <-captures:
			if !more {
				captures = nil
				continue
			}
			take(c)
		case obj := <-loaded:
			waited := aside[obj]
			delete(aside, obj)
			for _, c := range waited {
				take(c)
			}
		}
	}
}

// earlyRows answers for single functions of the objects whose rows are still being made.
type earlyRows map[*object]*cfi.Functions

// table returns the rows of an object as far as they are needed for a file offset; false: not before it is loaded.
func (e earlyRows) table(obj *object, offset uint64) (*cfi.Table, bool) {
	select {
	case <-obj.loaded:
		delete(e, obj)
		return obj.table.get(), true
	default:
	}
	functions, known := e[obj]
	if file := obj.reading().file; !known && file != nil {
		functions = readFunctions(file, obj.path)
		e[obj] = functions
	}
	if functions == nil {
		return nil, false
	}
	table := functions.At(offset)
	return table, table != nil
}

// walk finishes what the kernel's walk could not, or returns the object whose rows it has to wait for.
func (s *session) walk(c *capture, early earlyRows) (waitsFor *object) {
	s.syncRecords()
	pid := int(c.event.Pid)
	if !s.spaces.known(pid) {
		if _, err := s.spaces.snapshot(pid); err != nil {
			s.opts.Log("a stack of process %d came without its mappings: %v", pid, err)
		}
	}
	walked, err := cfi.Unwind(c.registers(), c.memory, s.resolver(c, early, &waitsFor), maxFrames)
	if waitsFor != nil {
		return waitsFor
	}
	frames := make([]bpf.Frame, len(walked))
	for i, f := range walked {
		frames[i], _ = s.frame(c, f.PC)
	}
	if c.end == bpf.WalkNoRows && s.objects.get(c.object) == nil {
		s.objects.giveUp(c.object)
	}
	s.account(c, frames, err == nil)
	return nil
}

// account adds a walked capture to the observations, as the kernel does with what it walks itself.
func (s *session) account(c *capture, frames []bpf.Frame, whole bool) {
	key := c.event.Key
	flags := bpf.CaptureFlags(c.event.Flags)
	if flags&bpf.CaptureCount != 0 {
		key.Origin, key.Via = s.charge(frames, whole)
		s.seen.count(key)
		if s.opts.Stream != nil {
			event := c.event
			event.Key = key
			s.stream.call(&event)
		}
	}
	if flags&bpf.CaptureChain == 0 {
		return // only the top of the stack was captured
	}
	if !whole {
		s.seen.broken(key.Program)
	}
	s.seen.stack(key, frames, s.sequence(frames), whole)
}

// charge finds the origin of a stack and the last frame before it, by the rule of attribute in trace.bpf.c.
func (s *session) charge(frames []bpf.Frame, whole bool) (origin, via bpf.Frame) {
	at := slices.IndexFunc(frames, func(f bpf.Frame) bool { return !s.region(f).Conduit })
	if at < 0 {
		if !whole || len(frames) == 0 {
			if len(frames) > 0 {
				via = frames[0]
			}
			return origin, via
		}
		at = len(frames) - 1 // conduits only: the outermost is the origin
		if at > 0 && s.region(frames[at]).Base {
			at--
		}
	}
	origin = frames[at]
	for i := at - 1; i >= 0; i-- {
		if s.regionID(frames[i]) != s.regionID(origin) {
			return origin, frames[i]
		}
	}
	return origin, via
}

// noRegion is that of code without an object.
var noRegion region.Region

// region returns the region of a frame.
func (s *session) region(f bpf.Frame) *region.Region {
	obj := s.objects.get(bpf.ObjectID(f.Object))
	if obj == nil {
		return &noRegion
	}
	return obj.regions().At(uint64(f.Offset))
}

// regionID numbers the regions of all objects.
func (s *session) regionID(f bpf.Frame) uint32 {
	obj := s.objects.get(bpf.ObjectID(f.Object))
	if obj == nil {
		return f.Object << 16
	}
	return f.Object<<16 | uint32(obj.regions().Region(uint64(f.Offset)))
}

// sequence is the regions on a stack, each run once, as a map key.
func (s *session) sequence(frames []bpf.Frame) string {
	sequence := make([]byte, 0, 64)
	last := ^uint32(0)
	for _, f := range frames {
		if id := s.regionID(f); id != last {
			last = id
			sequence = binary.LittleEndian.AppendUint32(sequence, id)
		}
	}
	return string(sequence)
}

// frame names the code at an address by object and file offset.
func (s *session) frame(c *capture, address uint64) (bpf.Frame, *object) {
	m, ok := s.spaces.find(int(c.event.Pid), address, c.event.Time)
	if !ok {
		return bpf.Frame{}, nil
	}
	obj := s.prepare(processMapping{pid: int(c.event.Pid), mapping: m})
	if obj == nil && c.end == bpf.WalkNoRows && s.objects.get(c.object) == nil {
		// The kernel's walk stopped here, as nothing else on its way is unknown.
		obj = s.objects.lose(c.object, m)
	}
	if obj == nil {
		return bpf.Frame{}, nil
	}
	if obj.id == bpf.ObjectAnonymous {
		return bpf.Frame{Object: uint32(obj.id)}, obj
	}
	return bpf.Frame{Object: uint32(obj.id), Offset: uint32(address - m.Start + m.Offset)}, obj
}

func (s *session) resolver(c *capture, early earlyRows, waitsFor **object) cfi.Resolver {
	return func(address uint64) (*cfi.Table, uint64, bool) {
		frame, obj := s.frame(c, address)
		if obj == nil {
			return nil, 0, false
		}
		table, ready := early.table(obj, uint64(frame.Offset))
		if !ready {
			*waitsFor = obj
		}
		return table, uint64(frame.Offset), ready
	}
}

// registers puts the kernel's registers into DWARF's order.
func (c *capture) registers() cfi.Regs {
	r := &c.regs
	return cfi.Regs{
		GPR: [16]uint64{r.Ax, r.Dx, r.Cx, r.Bx, r.Si, r.Di, r.Bp, r.Sp,
			r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15},
		IP:        r.Ip,
		InSyscall: true,
	}
}
