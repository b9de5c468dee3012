package cfi

import "fmt"

// Regs is what is known of a stopped thread: the general registers by DWARF number (rax, rdx, rcx, rbx, rsi, rdi, rbp,
// rsp, r8 to r15) and the instruction pointer.
type Regs struct {
	GPR [16]uint64
	IP  uint64
	// InSyscall: the thread is inside a system call, so that IP follows the instruction that made it
	// (orig_rax is not negative). Else IP is the next instruction to run.
	InSyscall bool
	// Partial: of the general registers only rsp is known. A walk that needs another one breaks with BreakRegister; most end
	// before.
	Partial bool
}

// Memory reads the walked thread's stack.
type Memory interface {
	// ReadWord returns the 8 bytes at an address as a little-endian number.
	ReadWord(addr uint64) (uint64, error)
}

// Resolver says what code is at an address: the table of its file and the file offset, a nil table for executable
// memory without one (JIT code). ok is false when the address is not executable.
type Resolver func(addr uint64) (t *Table, offset uint64, ok bool)

// Frame is one activation on a stack.
type Frame struct {
	IP uint64 // the instruction pointer or return address as found
	PC uint64 // the address to charge: inside the call instruction for a return address, else IP
	SP uint64 // the stack pointer in this frame; for a caller, after its call has returned
	// Guessed: the frame was reached by frame pointer because the frame below has no rows.
	Guessed bool
}

// Break is why a walk did not reach the end of the stack.
type Break uint8

const (
	// BreakMemory: a stack word could not be read.
	BreakMemory Break = iota + 1
	// BreakAddress: an instruction pointer or return address is not executable.
	BreakAddress
	// BreakRegister: a rule needs a register whose value is not known in that frame.
	BreakRegister
	// BreakFramePointer: no rows, and rbp does not point up the stack.
	BreakFramePointer
	// BreakDirection: a caller's frame would lie below its callee's.
	BreakDirection
	// BreakDepth: more frames than asked for.
	BreakDepth
)

var breakNames = [...]string{
	BreakMemory:       "stack memory not readable",
	BreakAddress:      "return address not executable",
	BreakRegister:     "register value not known",
	BreakFramePointer: "no unwind rows and no frame pointer",
	BreakDirection:    "stack runs backwards",
	BreakDepth:        "too many frames",
}

func (b Break) String() string {
	if b > 0 && int(b) < len(breakNames) {
		return breakNames[b]
	}
	return fmt.Sprintf("Break(%d)", uint8(b))
}

// WalkError tells where a walk broke off. The frames before that point are good.
type WalkError struct {
	Why   Break
	Frame int    // index of the frame whose caller was not found
	IP    uint64 // its instruction pointer
}

func (e *WalkError) Error() string {
	return fmt.Sprintf("unwinding frame %d at %#x: %v", e.Frame, e.IP, e.Why)
}

// saved is a register of the frame being walked, read only when a rule needs it: most rules do not, and each read
// costs as much as the rest of a step.
type saved struct {
	how  uint8  // valueKnown, valueInMemory, valueLost
	word uint64 // the value or its address
}

const (
	valueLost = iota
	valueKnown
	valueInMemory
)

// walker is the state of a walk: one frame. It is all that the in-kernel walker keeps, too.
type walker struct {
	memory   Memory
	resolve  Resolver
	regs     *Regs // nil above frame 0
	ip       uint64
	sp       uint64
	rbp, rbx saved
	exact    bool // ip is the next instruction; else it follows the one that is running
	guessed  bool
}

// Unwind walks a stack from its registers up and returns its frames, innermost first, at most limit of them. The error is
// a *WalkError when the walk broke off before the outermost frame.
//
// The in-kernel walker follows the same steps in the same order; a change here is one there.
func Unwind(regs Regs, memory Memory, resolve Resolver, limit int) ([]Frame, error) {
	frames := make([]Frame, 0, min(limit, 32))
	err := Walk(&regs, memory, resolve, limit, func(f Frame) bool {
		frames = append(frames, f)
		return true
	})
	return frames, err
}

// Walk is Unwind for those who do not need all frames: visit is called for each, after resolve was for its PC, and ends
// the walk when it returns false.
func Walk(regs *Regs, memory Memory, resolve Resolver, limit int, visit func(Frame) bool) error {
	w := walker{memory: memory, resolve: resolve, ip: regs.IP, sp: regs.GPR[RegRSP], exact: !regs.InSyscall}
	if !regs.Partial {
		w.regs, w.rbp, w.rbx = regs, saved{valueKnown, regs.GPR[RegRBP]}, saved{valueKnown, regs.GPR[RegRBX]}
	}
	for n := range limit {
		// The code of a frame is where it is running. A return address may already belong to the next function,
		// when the call was the last instruction and does not return.
		pc := w.ip
		if !w.exact {
			pc--
		}
		table, offset, ok := resolve(pc)
		if !ok {
			return &WalkError{BreakAddress, n, w.ip}
		}
		frame := Frame{IP: w.ip, PC: pc, SP: w.sp, Guessed: w.guessed}
		if !visit(frame) {
			return nil
		}
		rule := Rule{}
		if table != nil {
			rule = table.Lookup(offset)
		}
		more, why := w.step(rule)
		if why != 0 {
			return &WalkError{why, n, frame.IP}
		}
		// Thread entry points are called with a zero return address where nothing else marks the end. An interrupted
		// instruction at zero is a call through a null pointer, with its caller above it.
		if !more || w.ip == 0 && !w.exact {
			return nil
		}
	}
	return &WalkError{BreakDepth, limit, w.ip}
}

// step goes to the caller. more is false at the outermost frame.
func (w *walker) step(r Rule) (more bool, why Break) {
	switch r.CFA {
	case KindEnd:
		return false, 0
	case KindNone:
		return w.stepFramePointer()
	case KindSignal:
		return true, w.stepSignal()
	}
	// Where a register is saved may be relative to this frame's rbp.
	rbp, why := uint64(0), Break(0)
	if r.Flags&(RBPAtRBP|RBXAtRBP) != 0 {
		if rbp, why = w.value(&w.rbp); why != 0 {
			return false, why
		}
	}
	cfa, why := w.cfa(r)
	if why != 0 {
		return false, why
	}
	if cfa < w.sp && r.Flags&StackSwitch == 0 {
		return false, BreakDirection
	}
	if w.ip, why = w.returnAddress(r, cfa); why != 0 {
		return false, why
	}
	rbpBase, rbxBase := cfa, cfa
	if r.Flags&RBPAtRBP != 0 {
		rbpBase = rbp
	}
	if r.Flags&RBXAtRBP != 0 {
		rbxBase = rbp
	}
	w.rbp, w.rbx = w.rbp.caller(r.RBPOffset, rbpBase), w.rbx.caller(r.RBXOffset, rbxBase)
	w.sp = cfa
	w.exact, w.guessed, w.regs = r.Flags&Interrupted != 0, false, nil
	return true, 0
}

// cfa computes the canonical frame address of a frame.
func (w *walker) cfa(r Rule) (uint64, Break) {
	base, why := w.register(r.Reg)
	if why != 0 {
		return 0, why
	}
	cfa := base + uint64(int64(r.CFAOffset))
	switch r.CFA {
	case KindDeref:
		if cfa, why = w.word(cfa); why != 0 {
			return 0, why
		}
		cfa += uint64(int64(r.CFAExtra))
	case KindPLT:
		if w.ip&15 >= uint64(r.CFAExtra) {
			cfa += 8
		}
	}
	return cfa, 0
}

// returnAddress finds where a frame returns to.
func (w *walker) returnAddress(r Rule, cfa uint64) (uint64, Break) {
	if r.Flags&RAInRegister != 0 {
		return w.register(uint8(r.RAOffset))
	}
	return w.word(cfa + uint64(int64(r.RAOffset)))
}

// register returns the value of a DWARF register in this frame.
func (w *walker) register(reg uint8) (uint64, Break) {
	switch {
	case reg == RegRSP:
		return w.sp, 0
	case reg == RegRBP:
		return w.value(&w.rbp)
	case reg == RegRBX:
		return w.value(&w.rbx)
	case w.regs != nil && int(reg) < len(w.regs.GPR):
		return w.regs.GPR[reg], 0
	}
	return 0, BreakRegister
}

// value reads a register where it was saved.
func (w *walker) value(s *saved) (uint64, Break) {
	switch s.how {
	case valueKnown:
		return s.word, 0
	case valueInMemory:
		v, why := w.word(s.word)
		if why == 0 {
			*s = saved{valueKnown, v}
		}
		return v, why
	}
	return 0, BreakRegister
}

// caller says where the caller's register is, from the rule's offset and its base.
func (s saved) caller(offset int32, base uint64) saved {
	switch offset {
	case Same:
		return s
	case Undefined:
		return saved{}
	}
	return saved{valueInMemory, base + uint64(int64(offset))}
}

// stepSignal goes from rt_sigreturn's trampoline to the interrupted code: rsp points at struct ucontext, whose
// sigcontext (arch/x86/include/uapi/asm/sigcontext.h) begins 40 bytes in. The handler may have run on another stack, so
// nothing is checked about the direction.
func (w *walker) stepSignal() (why Break) {
	base := w.sp
	if w.ip, why = w.word(base + 168); why != 0 {
		return why
	}
	if w.sp, why = w.word(base + 160); why != 0 {
		return why
	}
	w.rbp = saved{valueInMemory, base + 120}
	w.rbx = saved{valueInMemory, base + 128}
	w.exact, w.guessed, w.regs = true, false, nil
	return 0
}

// stepFramePointer goes on without rows, as if the code kept a frame pointer: the caller's rbp is at *rbp and the return
// address above it. A zero rbp marks the outermost frame (psABI 3.4.1).
func (w *walker) stepFramePointer() (more bool, why Break) {
	rbp, why := w.value(&w.rbp)
	if why != 0 {
		return false, why
	}
	if rbp == 0 {
		return false, 0
	}
	if rbp < w.sp || rbp&7 != 0 {
		return false, BreakFramePointer
	}
	if w.ip, why = w.word(rbp + 8); why != 0 {
		return false, why
	}
	w.sp, w.rbp, w.rbx = rbp+16, saved{valueInMemory, rbp}, saved{}
	w.exact, w.guessed, w.regs = false, true, nil
	return true, 0
}

func (w *walker) word(addr uint64) (uint64, Break) {
	v, err := w.memory.ReadWord(addr)
	if err != nil {
		return 0, BreakMemory
	}
	return v, 0
}
