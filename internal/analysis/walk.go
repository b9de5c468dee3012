package analysis

import (
	"maps"
	"slices"

	"bulkhead/internal/disasm"
)

// The registers that carry arguments: of the System V ABI for C and its kin, and
// of Go's internal ABI (rax rbx rcx rdi rsi r8 r9 r10 r11).
const (
	argsC  = disasm.RegSet(1<<disasm.RDI | 1<<disasm.RSI | 1<<disasm.RDX | 1<<disasm.RCX | 1<<disasm.R8 | 1<<disasm.R9)
	argsGo = disasm.RegSet(1<<disasm.RAX | 1<<disasm.RBX | 1<<disasm.RCX | 1<<disasm.RDI | 1<<disasm.RSI |
		1<<disasm.R8 | 1<<disasm.R9 | 1<<disasm.R10 | 1<<disasm.R11)
	// scratchC are the registers that a callee may change.
	scratchC = argsC | disasm.RegSet(1<<disasm.RAX|1<<disasm.R10|1<<disasm.R11)
	scratchG = disasm.AllRegs &^ (1<<disasm.RSP | 1<<disasm.RBP)
)

// regStack stands for the first stack word above the return address in Arg.Reg:
// the first argument of Go's stack ABI.
const regStack = 16

// maxNumber bounds constants that may be system call numbers. x32 numbers have
// bit 30 set.
const maxNumber = 1024

// An insn is a decoded instruction of the function under the walk.
type insn struct {
	off    uint32
	block  int32 // the block that starts here, plus 1; 0 for none
	leader bool
	shape  disasm.Shape
}

// A block is a run of instructions that is entered at its start only.
type block struct {
	first, last int // instructions [first, last)
	in          state
	reached     bool // in holds something
	queued      bool
}

// maxSplits bounds how often a function is walked again for leaders that its
// jump tables add.
const maxSplits = 8

// A walker computes, for one function at a time, what registers and stack words
// may hold at each instruction, by data flow over its blocks, and then notes the
// facts that linking needs.
type walker struct {
	*scanner
	fn    uint32
	start uint64
	end   uint64

	values    values
	insns     []insn
	blocks    []block
	queue     []int
	now       state // of the block under way
	undecoded []uint32
	at        []int32 // offset in the function -> instruction index + 1, 0 for none
	// blind says that an indirect jump has an unknown target, so that any block
	// may be entered in any state; freshBlind and resplit that the walk has to be
	// done again for it or for newly found leaders.
	blind, freshBlind, resplit bool
	steps                      int // blocks visited
	emit                       bool
	handed                     disasm.RegSet // registers that the call being noted hands over
	refSeen                    map[Ref]struct{}
	escapes                    uint32
	uses, tests                uint32
	// held are code addresses and parameters stored in the function's frame; they
	// escape if the frame's address does.
	held         []stackWord
	frameEscapes bool
	escapedFrom  int64              // the lowest word of the frame whose address escapes
	lost         map[value]struct{} // forgotten in a merge
	allLeads     bool               // every code address that the function takes escapes
}

// function walks function fn and appends its facts to the summary.
func (w *walker) function(fn uint32) {
	r := w.ranges[fn]
	w.fn, w.start, w.end = fn, r.start, r.end
	w.escapes, w.uses, w.tests = 0, 0, 0
	w.blind, w.freshBlind, w.frameEscapes = false, false, false
	w.steps = 0
	w.handed = w.argRegs
	w.held = w.held[:0]
	clear(w.lost)
	w.escapedFrom, w.allLeads = 1<<62, false
	clear(w.refSeen)
	w.values.reset()
	w.decode()
	for range maxSplits {
		w.split()
		w.resplit = false
		w.converge()
		if !w.resplit && !w.freshBlind {
			break
		}
		w.freshBlind = false
	}
	w.note()
}

// note walks the converged blocks once more and appends the function's facts.
func (w *walker) note() {
	f := &w.facts[w.fn]
	f.returns, f.streams = false, false
	begin := func(f *funcFacts, i int) {
		f.calls[i], f.refs[i], f.sites[i] = len(w.calls), len(w.refs), len(w.sites)
		f.rets[i], f.gaps[i], f.names[i] = len(w.rets), len(w.gaps), len(w.names)
	}
	begin(f, 0)
	w.emit = true
	for _, off := range w.undecoded {
		// What does not decode behind the last jump of a function is data.
		if b := w.blockOf(int(w.at[off]) - 1); b >= 0 && w.blocks[b].reached {
			w.gaps = append(w.gaps, Gap{w.fn, off})
		}
	}
	for b := range w.blocks {
		if w.blocks[b].reached {
			w.now.copyFrom(&w.blocks[b].in)
			w.block(b, &w.now)
		}
	}
	if w.frameEscapes {
		for _, word := range w.held {
			// An object in the frame lies at and above its address.
			if word.off >= w.escapedFrom {
				w.escapeOne(word.v, 0)
			}
		}
	}
	lost := slices.Collect(maps.Keys(w.lost))
	slices.SortFunc(lost, func(a, b value) int {
		if less(a, b) {
			return -1
		}
		return 1
	})
	for _, v := range lost {
		w.escapeOne(v, 0)
	}
	if w.allLeads {
		w.leadsEscape()
	}
	w.emit = false
	begin(f, 1)
	f.escapes, f.uses, f.tests = w.escapes, w.uses, w.tests
}

// decode fills insns and marks the leaders that direct branches make.
func (w *walker) decode() {
	w.insns, w.undecoded = w.insns[:0], w.undecoded[:0]
	code := w.img.bytes(w.start)
	size := w.end - w.start
	if uint64(len(code)) > size {
		code = code[:size]
	}
	w.at = slices.Grow(w.at[:0], len(code))[:len(code)]
	clear(w.at)
	for off := 0; off < len(code); {
		s, err := disasm.Scan(code[off:])
		n := s.Size()
		if err != nil {
			w.undecoded = append(w.undecoded, uint32(off))
			n = 1
			s = disasm.Shape{}
		}
		w.insns = append(w.insns, insn{off: uint32(off), shape: s})
		w.at[off] = int32(len(w.insns))
		off += n
	}
	for i := range w.insns {
		in := &w.insns[i]
		if t, ok := in.shape.Target(w.start + uint64(in.off)); ok && in.shape.Flow() != disasm.Call {
			if j := w.insnAt(t); j >= 0 {
				w.insns[j].leader = true
			}
		}
		if !in.shape.FallsThrough() && i+1 < len(w.insns) {
			w.insns[i+1].leader = true
		}
		if in.shape.IsCondJump() && i+1 < len(w.insns) {
			w.insns[i+1].leader = true
		}
	}
	for _, t := range w.entries[w.fn] {
		if j := w.insnAt(t); j >= 0 {
			w.insns[j].leader = true
		}
	}
}

// insnAt returns the index of the instruction at an address, or -1.
func (w *walker) insnAt(addr uint64) int {
	if addr < w.start || addr >= w.start+uint64(len(w.at)) {
		return -1
	}
	return int(w.at[addr-w.start]) - 1
}

func (w *walker) split() {
	w.blocks = w.blocks[:0]
	for i := range w.insns {
		w.insns[i].block = 0
		if i == 0 || w.insns[i].leader {
			if n := len(w.blocks); n > 0 {
				w.blocks[n-1].last = i
			}
			w.blocks = append(w.blocks, block{first: i})
			w.insns[i].block = int32(len(w.blocks))
		}
	}
	if n := len(w.blocks); n > 0 {
		w.blocks[n-1].last = len(w.insns)
	}
}

// blockAt returns the block that starts at an address, or -1.
func (w *walker) blockAt(addr uint64) int {
	i := w.insnAt(addr)
	if i < 0 {
		return -1
	}
	return int(w.insns[i].block) - 1
}

// blockOf returns the block that holds instruction i, or -1.
func (w *walker) blockOf(i int) int {
	for i >= 0 && w.insns[i].block == 0 {
		i--
	}
	if i < 0 {
		return -1
	}
	return int(w.insns[i].block) - 1
}

// converge runs the data flow to its fixed point. Where landing pads or code
// without unwind information are, blocks that no edge reaches start unknown.
func (w *walker) converge() {
	if len(w.blocks) == 0 {
		return
	}
	entry := entryState()
	w.enter(0, &entry)
	var blank state
	for _, t := range w.entries[w.fn] {
		if b := w.blockAt(t); b >= 0 && t != w.start {
			w.enter(b, &blank)
		}
	}
	if w.blind {
		w.allLeads = true
		for b := range w.blocks {
			if !w.isPadding(b) {
				w.enter(b, &blank)
			}
		}
	}
	w.drain()
	if w.ranges[w.fn].closed && !w.blind {
		return // what no edge reaches is dead
	}
	for b := range w.blocks {
		if !w.blocks[b].reached && !w.isPadding(b) {
			w.allLeads = true
			w.enter(b, &blank)
			w.drain()
		}
	}
}

// isPadding reports whether block b, which no edge reaches, fills up to an
// alignment.
func (w *walker) isPadding(b int) bool {
	for _, in := range w.insns[w.blocks[b].first:w.blocks[b].last] {
		if op := in.shape.Opcode(); in.shape.Size() > 0 && !isNop(&in.shape) && op != 0xcc {
			return false
		}
	}
	return true
}

// leadsEscape lets every code address that the function takes escape: a block
// entered in ways that are not understood may find it in a register.
func (w *walker) leadsEscape() {
	for i := range w.insns {
		s := &w.insns[i].shape
		if s.Opcode() != 0x8d {
			continue
		}
		if t, ok := s.MemTarget(w.start + uint64(w.insns[i].off)); ok && w.isCode(t) {
			w.escapeOne(value{k: address, n: int64(t)}, w.insns[i].off)
		}
	}
}

func (w *walker) drain() {
	for len(w.queue) > 0 {
		if w.steps++; w.steps > maxVisits*(len(w.blocks)+64) {
			w.giveUp()
			return
		}
		// The lowest block first: most edges go forward.
		b := w.queue[0]
		w.queue = w.queue[1:]
		w.blocks[b].queued = false
		w.now.copyFrom(&w.blocks[b].in)
		w.block(b, &w.now)
	}
}

// maxVisits bounds how often a block is visited on average.
const maxVisits = 40

// giveUp ends a walk that does not come to rest: nothing is known at any block,
// and everything that the function could hand on escapes.
func (w *walker) giveUp() {
	w.queue = w.queue[:0]
	for b := range w.blocks {
		w.blocks[b].in = state{crowded: true}
		w.blocks[b].reached, w.blocks[b].queued = true, false
	}
	w.escapes, w.allLeads = ^uint32(0), true
}

// enter merges a state into a block's entry.
func (w *walker) enter(b int, s *state) {
	if w.emit {
		return
	}
	blk := &w.blocks[b]
	if !blk.reached {
		blk.reached = true
		blk.in = s.clone()
	} else if !blk.in.join(s, &w.values, w.dropped) {
		return
	}
	if !blk.queued {
		blk.queued = true
		at, _ := slices.BinarySearch(w.queue, b)
		w.queue = slices.Insert(w.queue, at, b)
	}
}

// dropped notes that a merge forgot a value.
func (w *walker) dropped(v value) { w.escapeOne(v, 0) }

// block runs the transfer function over block b and enters its successors.
func (w *walker) block(b int, s *state) {
	blk := &w.blocks[b]
	for i := blk.first; i < blk.last; i++ {
		in := &w.insns[i]
		switch in.shape.Flow() {
		case disasm.Next:
			w.transfer(in, s)
		case disasm.Trap:
			return
		case disasm.Ret:
			w.ret(in, s)
			return
		case disasm.Call, disasm.CallIndirect:
			w.call(in, s)
			if w.endsAt(in) {
				return
			}
		case disasm.Syscall:
			w.syscall(in, s)
		case disasm.Jump:
			w.jump(in, s)
			return
		case disasm.CondJump:
			if i > blk.first && w.differs(&w.insns[i-1], s) {
				switch in.shape.Opcode() {
				case 0x74, disasm.Escape0F | 0x84:
					continue
				case 0x75, disasm.Escape0F | 0x85:
					w.jump(in, s)
					return
				}
			}
			if i > blk.first {
				taken, not := w.branch(&w.insns[i-1], in, s)
				here := s.not
				s.not.add(&taken)
				w.jump(in, s)
				s.not = here
				s.not.add(&not)
				continue
			}
			w.jump(in, s)
		case disasm.JumpIndirect:
			w.jumpIndirect(in, s)
			return
		}
	}
	if b+1 < len(w.blocks) {
		w.enter(b+1, s)
	} else {
		w.fallOff(blk, s)
	}
}

// differs reports whether in compares what getenv returned with -1: that is never
// the address of a string. LLVM's LinkAllPasses.h and its like name functions behind
// this comparison, so that they are linked and never called.
func (w *walker) differs(in *insn, s *state) bool {
	sh := &in.shape
	if sh.Opcode() != 0x83 || sh.Digit() != 7 || sh.OperandSize() != 8 {
		return false
	}
	r, ok := sh.RM()
	imm, _ := sh.Imm()
	return ok && imm == -1 && s.regs[r].k == variable
}

// fallOff handles code that runs over the end of its function: into the next
// one, which some assembly does on purpose. After a call that does not return
// there is only padding.
func (w *walker) fallOff(blk *block, s *state) {
	if !w.emit || blk.first == blk.last {
		return
	}
	last := &w.insns[blk.last-1]
	if last.shape.IsCall() || last.shape.IsSyscall() {
		return
	}
	if f, ok := w.funcAt(w.end); ok && w.ranges[f].start == w.end {
		w.leave(last, s, w.end)
	}
}

func (w *walker) jump(in *insn, s *state) {
	t, _ := in.shape.Target(w.start + uint64(in.off))
	if b := w.blockAt(t); b >= 0 {
		w.enter(b, s)
		return
	}
	if w.emit {
		w.leave(in, s, t)
	}
}

// leave is a jump out of the function: a tail call, or a jump to a part of it
// that the compiler put elsewhere, which finds every register as it is and the
// words of the frame that are still there.
func (w *walker) leave(in *insn, s *state, target uint64) {
	sp := s.regs[disasm.RSP]
	for i := range s.stack {
		if word := &s.stack[i]; sp.k != frame || word.off >= sp.n {
			w.escapeCode(word.v, in.off)
		}
	}
	w.handed = disasm.AllRegs &^ disasm.Set(disasm.RSP)
	w.callTo(in, s, target)
	w.handed = w.argRegs
}

func (w *walker) jumpIndirect(in *insn, s *state) {
	v := w.operand(in, s)
	if v.k == tableJump {
		if w.switchTargets(in, uint64(v.n), uint64(w.values.list[v.i].n), 4, s) {
			return
		}
	}
	if table, ok := w.indexed(in, s); ok && w.switchTargets(in, table, 0, 8, s) {
		return
	}
	if v.k == oneOf && slices.ContainsFunc(w.values.sets[v.i], w.isLabel) {
		v = value{k: labelJump} // a computed goto whose table was not understood
	}
	if s.regs[disasm.RSP].k == otherStack && (v.k == unknown || v.k == guarded || v.k == load) {
		w.switchStack(in, s)
		return
	}
	if (v.k == unknown || v.k == labelJump) && !w.blind {
		w.blind, w.freshBlind = true, true
	}
	if v.k == labelJump {
		return
	}
	if w.emit {
		w.callValue(in, s, v)
	}
}

// switchStack is a jump with another stack pointer than the function's own: to
// where longjmp, an exception or a context goes on. It leaves no frame below the
// callers, so that it is no call; what the registers hold is known there.
func (w *walker) switchStack(in *insn, s *state) {
	for r := range s.regs {
		w.escapeStored(s.regs[r], in.off)
	}
}

// indexed returns the table of a jump through [table + 8*reg].
func (w *walker) indexed(in *insn, s *state) (table uint64, ok bool) {
	m, ok := in.shape.Memory()
	if !ok || m.Index == disasm.NoRegister || m.Scale != 8 {
		return 0, false
	}
	if m.Base == disasm.NoRegister {
		return uint64(m.Disp), true
	}
	if m.Base > disasm.R15 || s.regs[m.Base].k != address {
		return 0, false
	}
	return uint64(s.regs[m.Base].n + m.Disp), true
}

// maxCases bounds a jump table.
const maxCases = 16384

// switchTargets enters the blocks that a jump table names: entries of size
// bytes, relative to base. Where the bounds check before the jump is not found,
// the table ends at the first entry that is not an instruction of this function;
// an entry too many only adds a path.
func (w *walker) switchTargets(in *insn, table, base uint64, size int, s *state) bool {
	n, bounded := w.caseBound(in)
	if !bounded {
		n = maxCases
	}
	any := false
	for i := range n {
		var t uint64
		if size == 4 {
			rel, ok := w.img.int32(table + 4*i)
			if !ok {
				break
			}
			t = base + uint64(int64(rel))
		} else {
			t = w.pointerAt(table + 8*i)
		}
		j := w.insnAt(t)
		b := w.blockAt(t)
		switch {
		case b >= 0:
			w.enter(b, s)
		case j >= 0:
			w.insns[j].leader = true
			w.resplit = true
		case !bounded || !w.isCode(t):
			return any
		case w.emit: // a case in the cold part
			w.leave(in, s, t)
		}
		any = true
	}
	return any
}

// caseBound looks for the comparison that guards a switch and returns the number
// of its cases.
func (w *walker) caseBound(in *insn) (n uint64, ok bool) {
	at := w.insnAt(w.start + uint64(in.off))
	guarded := false
	for i := at - 1; i >= 0 && i > at-16; i-- {
		s := &w.insns[i].shape
		switch op := s.Opcode(); {
		case op == 0x77 || op == disasm.Escape0F|0x87 || op == 0x76 || op == disasm.Escape0F|0x86:
			guarded = true
		case guarded && (op == 0x83 || op == 0x81 || op == 0x80) && s.Digit() == 7, guarded && (op == 0x3c || op == 0x3d):
			imm, _ := s.Imm()
			if imm < 0 || imm >= maxCases {
				return 0, false
			}
			return uint64(imm) + 1, true
		}
	}
	return 0, false
}
