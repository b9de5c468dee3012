package disasm

// NoRegister stands for an absent base or index.
const NoRegister Register = 0xff

// RIP as a base stands for the address of the next instruction.
const RIP Register = 0x10

// A Segment is the segment register whose base is part of an address. The
// others have base 0 in 64-bit mode.
type Segment uint8

// The segments with a base.
const (
	Flat Segment = iota
	FS
	GS
)

// A Memory is a memory operand: Segment:[Base + Scale*Index + Disp].
type Memory struct {
	Segment Segment
	Base    Register // NoRegister, RIP or a general register
	Index   Register // NoRegister, or a general register
	Scale   uint8    // 1, 2, 4 or 8
	Vector  bool     // the index is a vector register (gather, scatter): Index is NoRegister
	Disp    int64    // in bytes
}

// Memory returns the operand that ModRM or a moffs address names. String
// instructions, push and pop have implicit ones, which it does not give, nor
// does it give EVEX operands whose displacement is scaled.
func (s *Shape) Memory() (m Memory, ok bool) {
	m = Memory{Segment: s.segment(), Base: NoRegister, Index: NoRegister, Scale: 1, Disp: int64(s.disp)}
	if s.opmap == legacy && s.opcode >= 0xa0 && s.opcode <= 0xa3 {
		m.Disp = s.imm
		return m, true
	}
	mod, rm := s.modrm>>6, s.modrm&7
	if !s.hasMod || mod == 3 {
		return Memory{}, false
	}
	switch {
	case s.opmap >= evex && s.opmap < xop && mod == 1:
		return Memory{}, false // disp8 counts in operand sizes, which are not known here
	case mod == 0 && rm == 5:
		m.Base = RIP
	case rm != 4:
		m.Base = s.register(rm, rexB, false)
	default:
		s.readSIB(&m)
	}
	return m, true
}

func (s *Shape) readSIB(m *Memory) {
	if base := s.sib & 7; base != 5 || s.modrm>>6 != 0 {
		m.Base = s.register(base, rexB, false)
	}
	m.Scale = 1 << (s.sib >> 6)
	index := s.register(s.sib>>3&7, rexX, false)
	if s.vectorIndex() {
		m.Vector = true
	} else if index != RSP {
		m.Index = index
	}
}

func (s *Shape) segment() Segment {
	switch {
	case s.prefix&segFS != 0:
		return FS
	case s.prefix&segGS != 0:
		return GS
	}
	return Flat
}

// MemTarget returns the address that a rip-relative memory operand of the
// instruction at address addr names.
func (s *Shape) MemTarget(addr uint64) (target uint64, ok bool) {
	if !s.hasMod || s.modrm&0xc7 != 5 || s.prefix&(addrSize|segFS|segGS) != 0 {
		return 0, false
	}
	return addr + uint64(s.size) + uint64(int64(s.disp)), true
}

// addressRegs adds the base and the index to the registers read.
func (s *Shape) addressRegs() {
	mod, rm := s.modrm>>6, s.modrm&7
	if rm != 4 {
		if mod != 0 || rm != 5 {
			s.reads |= 1 << s.register(rm, rexB, false)
		}
		return
	}
	var m Memory
	m.Base, m.Index = NoRegister, NoRegister
	s.readSIB(&m)
	if m.Base != NoRegister {
		s.reads |= 1 << m.Base
	}
	if m.Index != NoRegister {
		s.reads |= 1 << m.Index
	}
}

// vectorIndex reports whether the index of the operand is a vector register:
// gathers, scatters and their prefetches.
func (s *Shape) vectorIndex() bool {
	switch s.opmap {
	case vex + 2:
		return s.opcode&0xfc == 0x90
	case evex + 2:
		return s.opcode&0xfc == 0x90 || s.opcode&0xfc == 0xa0 || s.opcode&0xfe == 0xc6
	}
	return false
}
