package disasm

// The escapes that Opcode puts above the opcode byte.
const (
	Escape0F   = 0x100 // 0F xx
	Escape0F38 = 0x200 // 0F 38 xx
	Escape0F3A = 0x300 // 0F 3A xx
	EscapeVEX  = 0x400 // VEX, EVEX and XOP, map not told apart
)

// Opcode returns the opcode byte with its escape: 0x89 is mov, Escape0F|0xb6
// is movzx. It is for value tracking over the handful of opcodes that move
// integers; everything else is told by Reads, Writes and Memory.
func (s *Shape) Opcode() int {
	if s.opmap >= vex {
		return EscapeVEX | int(s.opcode)
	}
	return int(s.opmap)<<8 | int(s.opcode)
}

// Reg returns the register in ModRM.reg, taken as a general register.
func (s *Shape) Reg() Register { return s.register(s.modrm>>3&7, rexR, false) }

// RM returns the register in ModRM.rm, taken as a general register; ok is
// false if the operand is in memory or there is none.
func (s *Shape) RM() (r Register, ok bool) {
	if !s.hasMod || s.modrm>>6 != 3 {
		return NoRegister, false
	}
	return s.register(s.modrm&7, rexB, false), true
}

// LowRM is RM for an operand whose low byte is meant: ok is false for ah, ch, dh
// and bh, which a byte-wide operand without REX may be.
func (s *Shape) LowRM(byteWide bool) (r Register, ok bool) {
	r, ok = s.RM()
	if ok && byteWide && s.rex == 0 && s.modrm&7 >= 4 {
		return NoRegister, false
	}
	return r, ok
}

// MemBytes bounds the size of a memory operand in bytes. Those of the instructions
// that save and restore the state of a processor are larger.
func (s *Shape) MemBytes() int {
	switch {
	case s.opmap >= vex, s.opmap == legacy38 && s.opcode == 0xf8: // movdir64b
		return 64
	case s.opmap == legacy:
		return 8
	case s.opmap == legacy0F:
		switch s.opcode {
		case 0x12, 0x13, 0x16, 0x17: // movlps, movhps; F3: movsldup, movshdup
			if s.prefix&rep == 0 {
				return 8
			}
		case 0x6e, 0xd6: // movd, movq
			return 8
		case 0x7e:
			if s.prefix&rep != 0 {
				return 8
			}
		}
	}
	return 16
}

// OpReg returns the register in the opcode's low three bits.
func (s *Shape) OpReg() Register { return s.register(s.opcode&7, rexB, false) }

// Digit returns ModRM.reg as an opcode extension (the /n of the manual).
func (s *Shape) Digit() int { return int(s.modrm >> 3 & 7) }

// OperandSize returns the size of a general register operand in bytes that
// prefixes select: 8, 4 or 2. Byte-wide opcodes and those that default to 64
// bits (push, pop, near branches) are the caller's to know.
func (s *Shape) OperandSize() int {
	switch {
	case s.rex&rexW != 0:
		return 8
	case s.prefix&opSize != 0:
		return 2
	}
	return 4
}
