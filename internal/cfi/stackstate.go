package cfi

import "bulkhead/internal/disasm"

// stackState is what is known about a function's frame before one of its instructions, for code without call frame
// information. It is comparable, and join only ever takes knowledge away, so that a fixpoint over it ends.
type stackState struct {
	end      bool // the outermost frame: rbp was zeroed without having been saved (psABI 3.4.1)
	spKnown  bool
	rbp      holds
	rbxSame  bool
	ra       uint8 // DWARF register + 1 that holds the popped return address, 0 when it is on the stack
	sp       int32 // CFA - rsp
	rbpBelow int32 // CFA - rbp, for holdsFrame
	savedRBP int32 // the caller's rbp is at CFA + savedRBP, 0 when it was not saved
	savedRBX int32
}

// holds says what rbp holds.
type holds uint8

const (
	holdsCaller holds = iota // the caller's value
	holdsFrame               // CFA - rbpBelow
	holdsOther
)

// atEntry is the state before the first instruction of a function: the return address has just been pushed.
var atEntry = stackState{spKnown: true, rbxSame: true, sp: 8}

// maxFrameSize keeps offsets in int32, with room to add.
const maxFrameSize = 1 << 29

// join keeps what two paths to an instruction agree on.
func (s stackState) join(o stackState) stackState {
	s.end = s.end && o.end
	if s.ra != o.ra || !o.spKnown || s.sp != o.sp {
		s.spKnown, s.sp, s.ra = false, 0, 0
	}
	if s.savedRBP != o.savedRBP {
		s.savedRBP = 0
		if s.rbp == holdsCaller {
			s.rbp = holdsOther
		}
	}
	if s.rbp != o.rbp || s.rbpBelow != o.rbpBelow {
		s.rbp, s.rbpBelow = holdsOther, 0
	}
	if s.savedRBX != o.savedRBX {
		s.savedRBX, s.rbxSame = 0, false
	}
	s.rbxSame = s.rbxSame && o.rbxSame
	return s
}

// rule is how to unwind from this state.
func (s *stackState) rule() Rule {
	if s.end {
		return Rule{CFA: KindEnd}
	}
	r := Rule{CFA: KindRegister, RAOffset: -8}
	switch {
	case s.spKnown:
		r.Reg, r.CFAOffset = RegRSP, s.sp
	case s.rbp == holdsFrame:
		r.Reg, r.CFAOffset = RegRBP, s.rbpBelow
	default:
		return Rule{}
	}
	if s.ra != 0 {
		r.Flags, r.RAOffset = RAInRegister, int32(s.ra-1)
	}
	r.RBPOffset = savedOffset(s.savedRBP, s.rbp == holdsCaller)
	r.RBXOffset = savedOffset(s.savedRBX, s.rbxSame)
	return r
}

func savedOffset(slot int32, same bool) int32 {
	switch {
	case slot != 0:
		return slot
	case same:
		return Same
	}
	return Undefined
}

// stateOf is the reverse of rule, as far as that goes: nil for rules without a state.
func stateOf(r Rule) *stackState {
	if r.CFA != KindRegister || r.Flags != 0 || r.RAOffset != -8 {
		return nil
	}
	s := &stackState{rbp: holdsOther}
	switch r.Reg {
	case RegRSP:
		s.spKnown, s.sp = true, r.CFAOffset
	case RegRBP:
		s.rbp, s.rbpBelow = holdsFrame, r.CFAOffset
	default:
		return nil
	}
	switch {
	case r.RBPOffset == Same:
		s.rbp = holdsCaller
	case r.RBPOffset != Undefined:
		s.savedRBP = r.RBPOffset
	}
	switch {
	case r.RBXOffset == Same:
		s.rbxSame = true
	case r.RBXOffset != Undefined:
		s.savedRBX = r.RBXOffset
	}
	return s
}

// dwarfNumber maps hardware register numbers to DWARF ones (psABI figure 3.36).
var dwarfNumber = [16]uint8{0, 2, 1, 3, 7, 6, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15}

// Opcodes whose effect on the frame is followed; everything else is told by the registers that it writes.
const (
	opXorStore  = 0x31
	opXorLoad   = 0x33
	opPushReg   = 0x50 // to 0x57
	opPopReg    = 0x58 // to 0x5f
	opPushImm   = 0x68
	opPushImm8  = 0x6a
	opGroup1    = 0x81 // add, or, adc, sbb, and, sub, xor, cmp with an immediate
	opGroup1s8  = 0x83
	opMovStore  = 0x89
	opMovLoad   = 0x8b
	opLea       = 0x8d
	opPopMem    = 0x8f
	opPushf     = 0x9c
	opPopf      = 0x9d
	opMovRegImm = 0xb8 // to 0xbf
	opMovImm    = 0xc7
	opEnter     = 0xc8
	opLeave     = 0xc9
	opHlt       = 0xf4
	opGroup5    = 0xff
	digitAdd    = 0
	digitSub    = 5
	digitPush   = 6
	quadOperand = 8
)

// after returns the state behind an instruction that lets control go on.
func (s stackState) after(in *disasm.Shape) stackState {
	if in.IsCall() {
		return s // the callee gives everything back that is tracked
	}
	op := in.Opcode()
	imm, _ := in.Imm()
	switch {
	case op&^7 == opPushReg:
		return s.push(in.OpReg())
	case op&^7 == opPopReg:
		return s.pop(in.OpReg())
	case op == opPushImm, op == opPushImm8, op == opPushf, op == opGroup5 && in.Digit() == digitPush:
		return s.move(8)
	case op == opPopMem, op == opPopf:
		return s.move(-8)
	case op == opLeave:
		return s.leave()
	case op == opEnter:
		return s.enter(imm)
	case op == opLea:
		return s.lea(in)
	case op == opXorStore, op == opXorLoad:
		if rm, ok := in.RM(); ok && rm == disasm.RBP && in.Reg() == disasm.RBP && s.rbp == holdsCaller && s.savedRBP == 0 {
			s.end = true
		}
	case op == opGroup1, op == opGroup1s8:
		if rm, ok := in.RM(); ok && rm == disasm.RSP && in.OperandSize() == quadOperand {
			switch in.Digit() {
			case digitAdd:
				return s.move(-imm)
			case digitSub:
				return s.move(imm)
			}
		}
	case op == opMovStore && in.OperandSize() == quadOperand:
		if rm, ok := in.RM(); ok {
			return s.copy(rm, in.Reg(), in)
		}
		return s.store(in)
	case op == opMovLoad && in.OperandSize() == quadOperand:
		if rm, ok := in.RM(); ok {
			return s.copy(in.Reg(), rm, in)
		}
		return s.load(in)
	}
	return s.clobber(in.Writes())
}

// clobber forgets registers that got unknown values.
func (s stackState) clobber(written disasm.RegSet) stackState {
	if written.Has(disasm.RSP) {
		s.spKnown, s.sp, s.ra = false, 0, 0
	}
	if written.Has(disasm.RBP) {
		s.rbp, s.rbpBelow = holdsOther, 0
	}
	if written.Has(disasm.RBX) {
		s.rbxSame = false
	}
	return s
}

// move lowers rsp by n bytes.
func (s stackState) move(n int64) stackState {
	sp := int64(s.sp) + n
	if !s.spKnown || sp > maxFrameSize || sp < -maxFrameSize {
		return s.clobber(disasm.Set(disasm.RSP))
	}
	s.sp = int32(sp)
	return s
}

func (s stackState) push(reg disasm.Register) stackState {
	s = s.move(8)
	switch {
	case !s.spKnown:
	case s.ra != 0 && s.sp == 8 && s.ra == dwarfNumber[reg]+1:
		s.ra = 0 // the return address is back in its place
	case reg == disasm.RBP && s.rbp == holdsCaller && s.savedRBP == 0:
		s.savedRBP = -s.sp
	case reg == disasm.RBX && s.rbxSame && s.savedRBX == 0:
		s.savedRBX = -s.sp
	}
	return s
}

func (s stackState) pop(reg disasm.Register) stackState {
	slot := -s.sp
	known := s.spKnown
	s = s.move(-8)
	switch {
	case reg == disasm.RSP:
		return s.clobber(disasm.Set(disasm.RSP))
	case known && slot == -8:
		// vfork: the child runs on the parent's stack and would overwrite the return address, so it is kept in a register.
		s.ra = dwarfNumber[reg] + 1
		return s.clobber(disasm.Set(reg))
	}
	return s.restore(reg, slot, known)
}

// restore gives a register the word at CFA + slot.
func (s stackState) restore(reg disasm.Register, slot int32, known bool) stackState {
	switch {
	case known && reg == disasm.RBP && slot == s.savedRBP:
		s.rbp, s.rbpBelow, s.savedRBP = holdsCaller, 0, 0
	case known && reg == disasm.RBX && slot == s.savedRBX:
		s.rbxSame, s.savedRBX = true, 0
	default:
		return s.clobber(disasm.Set(reg))
	}
	return s
}

// leave is mov %rbp,%rsp; pop %rbp.
func (s stackState) leave() stackState {
	return s.copyRegister(disasm.RSP, disasm.RBP).pop(disasm.RBP)
}

// enter with nesting level 0 is push %rbp; mov %rsp,%rbp; sub $size,%rsp. No compiler uses other levels.
func (s stackState) enter(size int64) stackState {
	return s.push(disasm.RBP).copyRegister(disasm.RBP, disasm.RSP).move(size & 0xffff)
}

// copy is mov between registers.
func (s stackState) copy(to, from disasm.Register, in *disasm.Shape) stackState {
	if to != disasm.RSP && to != disasm.RBP {
		return s.clobber(in.Writes())
	}
	return s.copyRegister(to, from)
}

func (s stackState) copyRegister(to, from disasm.Register) stackState {
	below, known := s.distance(from)
	return s.point(to, below, known)
}

// distance returns CFA - register, for the two registers that can point into the frame.
func (s *stackState) distance(reg disasm.Register) (below int64, known bool) {
	switch {
	case reg == disasm.RSP:
		return int64(s.sp), s.spKnown
	case reg == disasm.RBP:
		return int64(s.rbpBelow), s.rbp == holdsFrame
	}
	return 0, false
}

// point lets rsp or rbp be CFA - below.
func (s stackState) point(reg disasm.Register, below int64, known bool) stackState {
	s = s.clobber(disasm.Set(reg))
	if !known || below > maxFrameSize || below < -maxFrameSize {
		return s
	}
	if reg == disasm.RSP {
		s.spKnown, s.sp = true, int32(below)
	} else {
		s.rbp, s.rbpBelow = holdsFrame, int32(below)
	}
	return s
}

func (s stackState) lea(in *disasm.Shape) stackState {
	to := in.Reg()
	if to != disasm.RSP && to != disasm.RBP || in.OperandSize() != quadOperand {
		return s.clobber(in.Writes())
	}
	below, known := s.slot(in)
	return s.point(to, below, known)
}

// slot returns CFA - address of a memory operand in the frame.
func (s *stackState) slot(in *disasm.Shape) (below int64, known bool) {
	m, ok := in.Memory()
	if !ok || m.Index != disasm.NoRegister || m.Vector || m.Segment != disasm.Flat {
		return 0, false
	}
	below, known = s.distance(m.Base)
	return below - m.Disp, known
}

// store is mov register,memory, which some functions save registers with.
func (s stackState) store(in *disasm.Shape) stackState {
	below, known := s.slot(in)
	if !known || below <= 8 || below > maxFrameSize {
		return s
	}
	switch reg := in.Reg(); {
	case reg == disasm.RBP && s.rbp == holdsCaller && s.savedRBP == 0:
		s.savedRBP = int32(-below)
	case reg == disasm.RBX && s.rbxSame && s.savedRBX == 0:
		s.savedRBX = int32(-below)
	}
	return s
}

// load is mov memory,register.
func (s stackState) load(in *disasm.Shape) stackState {
	below, known := s.slot(in)
	known = known && below > 8 && below <= maxFrameSize
	return s.restore(in.Reg(), int32(-below), known)
}
