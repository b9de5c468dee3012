package disasm

import (
	"encoding/binary"
	"errors"
)

// MaxLen is the greatest length of an amd64 instruction, in bytes.
const MaxLen = 15

// The errors of Scan and Decode.
var (
	// ErrTruncated: the code ends inside the instruction.
	ErrTruncated = errors.New("instruction is truncated")
	// ErrInvalid: the bytes are not an instruction that this package knows.
	ErrInvalid = errors.New("no known instruction")
	// ErrAmbiguous: Intel and AMD processors disagree on the length.
	ErrAmbiguous = errors.New("instruction length depends on the processor's vendor")
)

// A Shape is one instruction as far as its encoding tells: length, flow,
// memory operand, immediate and general registers touched.
type Shape struct {
	imm     int64
	disp    int32
	reads   RegSet
	writes  RegSet
	size    uint8
	opmap   opmap
	opcode  byte
	prefix  prefix
	rex     byte // W R X B as in REX, whatever prefix carried them
	vvvv    byte
	vexL    byte
	modrm   byte
	sib     byte
	flow    Flow
	hasMod  bool
	opaque  bool
	immSize uint8
}

// An opmap is the table that an opcode belongs to.
type opmap uint8

const (
	legacy   opmap      = iota // no escape byte
	legacy0F                   // 0F
	legacy38                   // 0F 38
	legacy3A                   // 0F 3A
	vex                        // vex+m is map m of VEX
	evex     = vex + 4         // evex+m is map m of EVEX
	xop      = evex + 8        // xop+m-8 is map m of AMD's XOP
	opmaps   = xop + 3
)

// A prefix holds the legacy prefixes that an instruction has.
type prefix uint8

const (
	opSize   prefix = 1 << iota // 66
	repNE                       // F2, the last of F2 and F3
	rep                         // F3
	addrSize                    // 67
	lock                        // F0
	segFS                       // 64
	segGS                       // 65
)

const (
	rexW = 8
	rexR = 4
	rexX = 2
	rexB = 1
)

// Size returns the length of the instruction in bytes, 1 to MaxLen.
func (s *Shape) Size() int { return int(s.size) }

// Reads returns the general registers that the instruction may read,
// implicit ones and those of addresses included.
func (s *Shape) Reads() RegSet { return s.reads }

// Writes returns the general registers that may have another value after the
// instruction. A call has AllRegs: what the callee keeps is a matter of its
// calling convention. A syscall has rax, rcx and r11.
func (s *Shape) Writes() RegSet { return s.writes }

// Imm returns the immediate operand, sign-extended, or the distance of a
// relative branch. Instructions with two of them (enter) give the first.
func (s *Shape) Imm() (value int64, ok bool) { return s.imm, s.immSize != 0 }

// Scan decodes the shape of the first instruction in code. It allocates
// nothing. Bytes after the instruction do not matter.
func Scan(code []byte) (Shape, error) {
	var s Shape
	err := s.scan(code)
	return s, err
}

// scan reads prefixes, opcode, ModRM, displacement and immediate in turn.
func (s *Shape) scan(code []byte) error {
	truncated := ErrTruncated
	if len(code) > MaxLen {
		code, truncated = code[:MaxLen], ErrInvalid // longer than any instruction
	}
	pos := s.readPrefixes(code)
	if pos >= len(code) {
		return truncated
	}
	a, n, err := s.readOpcode(code, pos)
	if err != nil {
		if err == ErrTruncated {
			return truncated
		}
		return err
	}
	pos = n
	if a&modrm != 0 {
		if pos = s.readModRM(code, pos, a); pos < 0 {
			return truncated
		}
		a = s.refine(a)
	} else if a&group != 0 {
		a = s.refineOneByte(a)
	}
	if a&known == 0 || !s.exists() {
		return ErrInvalid
	}
	if pos, err = s.readImmediate(code, pos, a); err != nil {
		if err == ErrTruncated {
			return truncated
		}
		return err
	}
	s.size = uint8(pos)
	s.finish(a)
	return nil
}

// readPrefixes consumes legacy prefixes and REX and returns what follows.
// A REX that is not the last prefix has no effect (SDM 2.2.1).
func (s *Shape) readPrefixes(code []byte) int {
	for pos, b := range code {
		switch b {
		case 0x66:
			s.prefix |= opSize
		case 0x67:
			s.prefix |= addrSize
		case 0xf2:
			s.prefix = s.prefix&^rep | repNE
		case 0xf3:
			s.prefix = s.prefix&^repNE | rep
		case 0xf0:
			s.prefix |= lock
		case 0x64:
			s.prefix = s.prefix&^segGS | segFS
		case 0x65:
			s.prefix = s.prefix&^segFS | segGS
		case 0x26, 0x2e, 0x36, 0x3e:
		default:
			if b&0xf0 != 0x40 {
				return pos
			}
			s.rex = b
			continue
		}
		s.rex = 0
	}
	return len(code)
}

// readOpcode consumes escapes and opcode and returns what is known about it.
func (s *Shape) readOpcode(code []byte, pos int) (attr, int, error) {
	b := code[pos]
	pos++
	switch b {
	case 0xc4, 0xc5, 0x62:
		return s.readVEX(code, pos, b)
	case 0x8f:
		if pos < len(code) && code[pos]&31 >= 8 { // else it is pop, whose ModRM.reg is 0
			return s.readVEX(code, pos, b)
		}
	case 0x0f:
		if pos >= len(code) {
			return 0, 0, ErrTruncated
		}
		b, s.opmap = code[pos], legacy0F
		pos++
	}
	table := &map1
	if s.opmap == legacy0F {
		table = &map0F
		if b == 0x38 || b == 0x3a {
			table, s.opmap = &map38, legacy38
			if b == 0x3a {
				table, s.opmap = &map3A, legacy3A
			}
			if pos >= len(code) {
				return 0, 0, ErrTruncated
			}
			b = code[pos]
			pos++
		}
	}
	s.opcode = b
	a := table[b]
	if a&known == 0 {
		return 0, 0, ErrInvalid
	}
	return a, pos, nil
}

// readModRM consumes ModRM, SIB and displacement; it returns -1 if the code
// ends before them.
func (s *Shape) readModRM(code []byte, pos int, a attr) int {
	if pos >= len(code) {
		return -1
	}
	s.modrm, s.hasMod = code[pos], true
	pos++
	mod, rm := s.modrm>>6, s.modrm&7
	if mod == 3 {
		return pos
	}
	if s.opmap == legacy0F && s.opcode >= 0x20 && s.opcode <= 0x23 {
		s.modrm |= 0xc0 // mov to and from control registers ignores mod
		return pos
	}
	wide := mod == 2 || mod == 0 && rm == 5
	if rm == 4 {
		if pos >= len(code) {
			return -1
		}
		s.sib = code[pos]
		pos++
		wide = wide || mod == 0 && s.sib&7 == 5
	}
	switch {
	case wide:
		if pos+4 > len(code) {
			return -1
		}
		s.disp = int32(binary.LittleEndian.Uint32(code[pos:]))
		pos += 4
	case mod == 1:
		if pos >= len(code) {
			return -1
		}
		s.disp = int32(int8(code[pos]))
		pos++
	}
	return pos
}

// readImmediate consumes the immediate operand.
func (s *Shape) readImmediate(code []byte, pos int, a attr) (int, error) {
	size := 0
	switch a & immMask {
	case immNone:
		return pos, nil
	case imm8, rel8:
		size = 1
	case imm16:
		size = 2
	case imm16x8:
		size = 3
	case immD:
		size = 4
	case immZ:
		size = 4
		if s.prefix&opSize != 0 && s.rex&rexW == 0 {
			size = 2
		}
	case immV:
		size = 4
		if s.rex&rexW != 0 {
			size = 8
		} else if s.prefix&opSize != 0 {
			size = 2
		}
	case immAddr:
		size = 8
		if s.prefix&addrSize != 0 {
			size = 4
		}
	case rel32:
		size = 4
		if s.prefix&opSize != 0 && s.rex&rexW == 0 {
			return 0, ErrAmbiguous // 4 bytes for Intel, 2 for AMD
		}
	}
	if pos+size > len(code) {
		return 0, ErrTruncated
	}
	switch code := code[pos:]; size {
	case 1:
		s.imm = int64(int8(code[0]))
	case 2, 3:
		s.imm = int64(int16(binary.LittleEndian.Uint16(code)))
	case 4:
		s.imm = int64(int32(binary.LittleEndian.Uint32(code)))
	case 8:
		s.imm = int64(binary.LittleEndian.Uint64(code))
	}
	s.immSize = uint8(size)
	return pos + size, nil
}

// finish sets the flow and the register sets.
func (s *Shape) finish(a attr) {
	s.flow = Flow(a & flowMask >> flowShift)
	s.opaque = a&opaque != 0
	if s.opmap == legacy && s.opcode == 0xcd && byte(s.imm) == 0x80 {
		s.flow = Syscall
		s.reads, s.writes = AllRegs, ax|Set(R8, R9, R10, R11) // kernels before 4.17 clear r8 to r11
		return
	}
	if a&unknown != 0 {
		s.reads, s.writes = AllRegs, AllRegs
		return
	}
	s.reads, s.writes = RegSet(a>>32), RegSet(a>>48)
	if a&repeat != 0 && s.prefix&(rep|repNE) != 0 {
		s.reads |= cx
		s.writes |= cx
	}
	if s.hasMod {
		s.modrmRegs(a)
	}
	if a&opRW != 0 {
		r := s.opcode & 7
		s.touch(s.register(r, rexB, a&reg8 != 0), a&opR != 0, a&opW != 0, s.narrow(a, reg8))
	}
	if a&vvvvR != 0 {
		s.reads |= 1 << s.vvvv
	}
	if a&vvvvW != 0 {
		s.writes |= 1 << s.vvvv
	}
}

// modrmRegs adds the registers that ModRM and SIB name.
func (s *Shape) modrmRegs(a attr) {
	if a&regRW != 0 {
		r := s.register(s.modrm>>3&7, rexR, a&reg8 != 0)
		s.touch(r, a&regR != 0, a&regW != 0, s.narrow(a, reg8))
	}
	if s.modrm>>6 != 3 {
		s.addressRegs()
	} else if a&rmRW != 0 {
		r := s.register(s.modrm&7, rexB, a&rm8 != 0)
		s.touch(r, a&rmR != 0, a&rmW != 0, s.narrow(a, rm8))
	}
}

// narrow reports whether a write leaves the upper bits as they were, which
// makes it a read as well: true for 8 and 16 bits (SDM volume 1, 3.4.1.1).
func (s *Shape) narrow(a attr, width attr) bool {
	return a&(width|partial) != 0 || s.prefix&opSize != 0 && s.rex&rexW == 0 && s.opmap < vex
}

func (s *Shape) touch(r Register, read, write, narrow bool) {
	if write {
		s.writes |= 1 << r
	}
	if read || narrow {
		s.reads |= 1 << r
	}
}

// register returns the register that three bits and a bit of REX name.
// Without REX the byte registers 4 to 7 are ah, ch, dh and bh.
func (s *Shape) register(bits, extension byte, byteWide bool) Register {
	if byteWide && s.rex == 0 && s.opmap < vex && bits >= 4 {
		return Register(bits - 4)
	}
	if s.rex&extension != 0 {
		bits |= 8
	}
	return Register(bits)
}
