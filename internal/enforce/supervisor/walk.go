package supervisor

import (
	"slices"

	"bulkhead/internal/cfi"
	"bulkhead/internal/policy"
	"bulkhead/internal/ptrace"
)

// maxFrames bounds a walk, as in the kernel (MAX_FRAMES in walk.h).
const maxFrames = 1024

// code is what a program image has at an address range: an object with what the rules say of it.
type code struct {
	*object
	compartment policy.ID
	conduit     bool
}

// frame is a frame of a walk with its code.
type frame struct {
	code   *code
	offset uint64 // in the file
}

// codeTable finds the code at addresses of one address space. It follows the mappings.
type codeTable struct {
	image      *image
	generation uint64
	at         map[uint64]*code // by the mapping's start
}

// walker walks the stack of a stopped thread.
type walker struct {
	*image
	thread *ptrace.Thread
	table  *codeTable
	frames []frame
	// done says when enough frames were seen.
	done func(*code) bool
	// returns: the next frame is reached by a return, not from a signal's trampoline.
	returns bool
}

// walk returns the frames of a thread's stack, the last one the one that done asked for; whole tells that there was none
// before the outermost.
func (w *walker) walk() (whole, decided bool) {
	w.frames = w.frames[:0]
	if w.thread.Regs.Cs != codeSegment64 {
		return false, false // rows are for 64-bit code
	}
	regs := registers(&w.thread.Regs)
	_, err := cfi.Unwind(regs, w.thread.Memory, func(addr uint64) (*cfi.Table, uint64, bool) {
		if decided {
			return nil, 0, false
		}
		c, offset, ok := w.find(addr)
		if !ok {
			return nil, 0, false
		}
		if w.returns && !c.followsCall(offset+1) && !entered(c, offset) {
			return nil, 0, false
		}
		w.frames = append(w.frames, frame{c, offset})
		if w.done(c) {
			decided = true
			return nil, 0, false
		}
		w.returns = c.table == nil || c.table.Lookup(offset).CFA != cfi.KindSignal
		return c.table, offset, true
	}, maxFrames)
	return err == nil, decided
}

// entered tells whether code is entered otherwise than by a return to what follows a call: the trampoline that a signal
// handler returns to, and functions that nothing calls (the start of a thread, of a makecontext stack).
func entered(c *code, offset uint64) bool {
	if c.table == nil {
		return false
	}
	// The address to charge is one before the return address, which may be the end of what stands before the function.
	at, before := c.table.Lookup(offset+1).CFA, c.table.Lookup(offset).CFA
	return at == cfi.KindSignal || before == cfi.KindSignal || c.conduit && (at == cfi.KindEnd || before == cfi.KindEnd)
}

// find returns the code at an address and its file offset.
func (w *walker) find(addr uint64) (*code, uint64, bool) {
	m, ok := w.thread.Find(addr)
	if !ok {
		return nil, 0, false
	}
	if g := w.thread.Generation(); g != w.table.generation || w.table.at == nil {
		w.table.generation, w.table.at = g, map[uint64]*code{}
	}
	c := w.table.at[m.Start]
	if c == nil {
		c = w.image.code(w.thread.TID, &m)
		w.table.at[m.Start] = c
	}
	return c, addr - m.Start + m.Offset, true
}

// charge returns the compartments that must allow the call: the origin, or with the chain check all on the stack. The
// rules are those of policy.Rules. decider is the frame of each, -1 for none.
func (w *walker) charge(check policy.Check) (ids []policy.ID, deciders []int) {
	w.done = func(c *code) bool { return check == policy.Origin && !c.conduit }
	whole, decided := w.walk()
	for i, f := range w.frames {
		if !f.code.conduit && !slices.Contains(ids, f.code.compartment) {
			ids, deciders = append(ids, f.code.compartment), append(deciders, i)
		}
	}
	switch {
	case decided:
	case whole && len(ids) == 0 && len(w.frames) > 0:
		last := len(w.frames) - 1
		ids, deciders = append(ids, w.frames[last].code.compartment), append(deciders, last)
	case !whole && !slices.Contains(ids, policy.Unknown):
		ids, deciders = append(ids, policy.Unknown), append(deciders, -1)
	}
	return ids, deciders
}

// codeSegment64 is the cs of 64-bit code (__USER_CS).
const codeSegment64 = 0x33

// registers puts registers into DWARF's order.
func registers(r *ptrace.Registers) cfi.Regs {
	return cfi.Regs{
		GPR: [16]uint64{r.Rax, r.Rdx, r.Rcx, r.Rbx, r.Rsi, r.Rdi, r.Rbp, r.Rsp,
			r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15},
		IP:        r.Rip,
		InSyscall: true,
	}
}
