package supervisor

import (
	"errors"
	"slices"

	"bulkhead/internal/cfi"
	"bulkhead/internal/enforce/backend"
	"bulkhead/internal/policy"
	"bulkhead/internal/ptrace"
	"bulkhead/internal/syscalls"
)

// maxFrames bounds a walk, as in the kernel (MAX_FRAMES in walk.h).
const maxFrames = 1024

// frame is a frame of a walk with its code.
type frame struct {
	code   *code
	charge *backend.Charge
	offset uint64 // in the file
}

// codeTable finds the code at addresses of one address space for one image. It follows the mappings.
type codeTable struct {
	image      *image
	generation uint64
	codes      map[uint64]*code // by the mapping's start
}

// walker walks the stack of a stopped thread.
type walker struct {
	image  *image
	thread *ptrace.Thread
	table  *codeTable
	regs   cfi.Regs
	frames []frame
	ids    []policy.ID // what charged returns, and the frames
	at     []int

	toEnd    bool // walk all of the stack, else to the first frame that is charged
	decided  bool // that frame was found
	returned bool // the next frame is reached by a return, and not from a signal's trampoline

	resolve cfi.Resolver         // w.resolveFrame
	visit   func(cfi.Frame) bool // w.visitFrame
}

func newWalker() *walker {
	w := &walker{}
	w.resolve, w.visit = w.resolveFrame, w.visitFrame
	return w
}

// walk fills frames; whole tells that the walk got to the outermost frame, decided that it ended at one that is charged.
func (w *walker) walk(toEnd bool) (whole, decided bool) {
	if w.thread.Call.ABI != syscalls.I386 {
		w.regs = cfi.Regs{IP: w.thread.Call.IP, InSyscall: true, Partial: true}
		w.regs.GPR[cfi.RegRSP] = w.thread.SP
		if err := w.from(toEnd); !needsRegister(err) {
			return err == nil && !w.decided, w.decided
		}
	}
	known, err := w.thread.Registers()
	if err != nil || known.Cs != codeSegment64 { // rows are for 64-bit code
		w.frames, w.decided = w.frames[:0], false
		return false, false
	}
	w.regs = cfi.Regs{GPR: ptrace.InDWARFOrder(known), IP: known.Rip, InSyscall: true}
	err = w.from(toEnd)
	return err == nil && !w.decided, w.decided
}

// from walks from the registers up.
func (w *walker) from(toEnd bool) error {
	w.frames, w.toEnd, w.decided, w.returned = w.frames[:0], toEnd, false, false
	return cfi.Walk(&w.regs, w.thread.Memory, w.resolve, maxFrames, w.visit)
}

// needsRegister tells whether a walk broke off because it did not know a register.
func needsRegister(err error) bool {
	var broken *cfi.WalkError
	return errors.As(err, &broken) && broken.Why == cfi.BreakRegister
}

func (w *walker) resolveFrame(addr uint64) (*cfi.Table, uint64, bool) {
	c, offset, ok := w.find(addr)
	if !ok || w.returned && !c.followsCall(offset+1) && !c.entered(offset) {
		return nil, 0, false
	}
	w.frames = append(w.frames, frame{c, c.at(offset), offset})
	return c.table, offset, true
}

func (w *walker) visitFrame(cfi.Frame) bool {
	f := &w.frames[len(w.frames)-1]
	if !w.toEnd && !f.charge.Conduit {
		w.decided = true
		return false
	}
	w.returned = f.code.table == nil || f.code.table.Lookup(f.offset).CFA != cfi.KindSignal
	return true
}

// entered tells whether code is reached otherwise than by a return to what follows a call: the trampoline that a signal
// handler returns to, and functions that nothing calls (where a goroutine or a makecontext stack begins). The offset is
// that of the address to charge, one before the return address: it may be in what stands before the function.
func (c *code) entered(offset uint64) bool {
	if c.table == nil {
		return false
	}
	for _, at := range []uint64{offset, offset + 1} {
		kind := c.table.Lookup(at).CFA
		if kind == cfi.KindSignal || kind == cfi.KindEnd && c.at(at).Conduit {
			return true
		}
	}
	return false
}

// find returns the code at an address and its file offset.
func (w *walker) find(addr uint64) (*code, uint64, bool) {
	m := w.thread.Find(addr)
	if m == nil {
		return nil, 0, false
	}
	if g := w.thread.Generation(); g != w.table.generation || w.table.codes == nil {
		w.table.generation, w.table.codes = g, map[uint64]*code{}
	}
	c := w.table.codes[m.Start]
	if c == nil {
		c = w.image.code(w.thread.TID, m)
		w.table.codes[m.Start] = c
	}
	return c, addr - m.Start + m.Offset, true
}

// charged returns the compartments that must allow the call: the origin, or with the chain check all on the stack. The
// rules are those of policy.Rules. Of each it returns the frame, -1 for none.
func (w *walker) charged(check policy.Check) (ids []policy.ID, at []int) {
	whole, decided := w.walk(check == policy.Chain)
	ids, at = w.ids[:0], w.at[:0]
	defer func() { w.ids, w.at = ids, at }()
	add := func(id policy.ID, frame int) {
		if !slices.Contains(ids, id) {
			ids, at = append(ids, id), append(at, frame)
		}
	}
	for n, f := range w.frames {
		if f.charge.Conduit {
			continue
		}
		add(f.charge.IDs[0], n)
		if check == policy.Chain {
			for _, id := range f.charge.IDs[1:] {
				add(id, n)
			}
		}
	}
	switch {
	case decided:
	case !whole:
		add(policy.Unknown, -1)
	case len(ids) == 0:
		last := len(w.frames) - 1
		for last > 0 && w.frames[last].charge.Base {
			last--
		}
		add(w.frames[last].charge.IDs[0], last)
	}
	return ids, at
}

// codeSegment64 is the cs of 64-bit code (__USER_CS).
const codeSegment64 = 0x33
