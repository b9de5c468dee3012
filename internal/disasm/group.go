package disasm

// refine settles what an opcode means once prefixes and ModRM are known: the
// opcode groups of SDM volume 2, table A-6, and the forms that a mandatory
// prefix or the kind of operand selects. It returns 0 for a form that does not
// exist.
func (s *Shape) refine(a attr) attr {
	isMem := s.modrm>>6 != 3
	if a&memory != 0 && !isMem {
		return 0
	}
	switch s.opmap {
	case legacy:
		if a&group != 0 {
			return s.refineOneByte(a)
		}
		if s.opcode == 0xdf && s.modrm == 0xe0 { // fnstsw ax
			return a | both(ax)
		}
	case legacy0F:
		if a&group != 0 {
			return s.refineTwoByte(a)
		}
		return s.refineSIMD(a)
	case legacy38:
		return s.refine38(a)
	}
	return a
}

// refineOneByte handles the groups of the one-byte map.
func (s *Shape) refineOneByte(a attr) attr {
	reg := s.modrm >> 3 & 7
	switch s.opcode {
	case 0x80, 0x81, 0x83:
		if reg == 7 {
			return a | rmR // cmp
		}
		return a | rmRW
	case 0x90:
		if s.rex&rexB == 0 {
			return known // nop, pause
		}
	case 0x99:
		return a | s.keepsUpper(dx)
	case 0x8f:
		if reg != 0 {
			return 0 // XOP
		}
	case 0xc6:
		if s.modrm == 0xf8 {
			return known | imm8 | opaque // xabort
		}
		if reg != 0 {
			return 0
		}
	case 0xc7:
		if s.modrm == 0xf8 {
			return flows(CondJump) | rel32 | both(ax) // xbegin
		}
		if reg != 0 {
			return 0
		}
	case 0xf6, 0xf7:
		return s.refineUnary(a, reg)
	case 0xfe:
		if reg > 1 {
			return 0
		}
		return a | rmRW
	case 0xff:
		return s.refineFF(a, reg)
	}
	return a
}

// refineUnary handles group 3: test, not, neg, mul, imul, div, idiv.
func (s *Shape) refineUnary(a attr, reg byte) attr {
	switch {
	case reg < 2 && s.opcode == 0xf6:
		return a | imm8 | rmR
	case reg < 2:
		return a | immZ | rmR
	case reg < 4:
		return a | rmRW
	case s.opcode == 0xf6:
		return a | rmR | both(ax)
	case reg < 6:
		return a | rmR | reads(ax) | writes(ax|dx) | s.keepsUpper(dx)
	}
	return a | rmR | both(ax|dx)
}

// keepsUpper says that the registers keep their upper bits if the operands
// are 16 bits wide.
func (s *Shape) keepsUpper(set RegSet) attr {
	if s.prefix&opSize != 0 && s.rex&rexW == 0 {
		return reads(set)
	}
	return 0
}

// refineFF handles group 5: inc, dec, call, jmp, push.
func (s *Shape) refineFF(a attr, reg byte) attr {
	far := reg == 3 || reg == 5
	if far && s.modrm>>6 == 3 {
		return 0
	}
	switch reg {
	case 0, 1:
		return a | rmRW
	case 2, 3:
		return a | flows(CallIndirect) | reads(AllRegs) | writes(AllRegs)
	case 4, 5:
		return a | flows(JumpIndirect) | rmR
	case 6:
		return a | rmR | both(sp)
	}
	return 0
}

// refineTwoByte handles the groups of the 0F map.
func (s *Shape) refineTwoByte(a attr) attr {
	reg := s.modrm >> 3 & 7
	isMem := s.modrm>>6 != 3
	switch s.opcode {
	case 0x00:
		switch {
		case reg < 2:
			return a | rmW
		case reg < 6:
			return a | rmR
		}
		return 0
	case 0x01:
		return s.refine01(a, reg, isMem)
	case 0x1e:
		return s.refine1E(a, reg)
	case 0xae:
		return s.refineAE(a, reg, isMem)
	case 0xba:
		if reg < 4 {
			return 0
		}
		if reg == 4 {
			return a | rmR
		}
		return a | rmRW
	case 0xc7:
		return s.refineC7(a, reg, isMem)
	}
	return 0
}

// refine01 handles group 7, most of it privileged.
func (s *Shape) refine01(a attr, reg byte, isMem bool) attr {
	if isMem {
		if reg == 5 {
			if s.prefix&rep == 0 {
				return 0
			}
			return a | opaque // rstorssp
		}
		return a
	}
	switch reg {
	case 4:
		return a | rmW // smsw
	case 6:
		return a | rmR // lmsw
	}
	switch s.modrm {
	case 0xca, 0xcb, 0xd5, 0xd6: // clac stac xend xtest
		return a
	case 0xd0: // xgetbv
		return a | reads(cx) | writes(ax|dx)
	case 0xd1: // xsetbv
		return a | reads(ax|cx|dx)
	case 0xe8, 0xe9: // serialize, setssbsy, xsusldtrk, xresldtrk
		return a | opaque
	case 0xea: // saveprevssp
		return a | opaque
	case 0xec: // uiret
		if s.prefix&rep != 0 {
			return a | flows(Ret) | unknown | opaque
		}
		return 0
	case 0xed: // testui
		return a | opaque
	case 0xee: // rdpkru, clui
		return a | reads(cx) | writes(ax|dx) | opaque
	case 0xef: // wrpkru, stui
		return a | reads(ax|cx|dx) | opaque
	case 0xf9: // rdtscp
		return a | writes(ax|cx|dx)
	case 0xfd: // rdpru
		return a | reads(cx) | writes(ax|dx) | opaque
	case 0xcc, 0xcd, 0xce: // tdcall, seamret, seamops
		if s.prefix&opSize == 0 {
			return 0
		}
	case 0xd2, 0xd3, 0xeb:
		return 0
	}
	return a | unknown | opaque
}

// refine1E handles the hints that became CET instructions.
func (s *Shape) refine1E(a attr, reg byte) attr {
	if s.prefix&rep == 0 || s.modrm>>6 != 3 {
		return a &^ group
	}
	switch {
	case reg == 1:
		return a | rmW | rmR | opaque // rdssp leaves the register alone without shadow stack
	case s.modrm == 0xfa, s.modrm == 0xfb:
		return a | opaque
	}
	return a &^ group
}

// refineAE handles group 15: state saving, fences, segment bases.
func (s *Shape) refineAE(a attr, reg byte, isMem bool) attr {
	p := s.prefix & (opSize | rep | repNE)
	switch {
	case isMem && p&rep != 0 && reg == 6:
		return a | opaque // clrssbsy
	case p&rep != 0 && reg == 4:
		return a | rmR | opaque // ptwrite
	case isMem && p&opSize != 0:
		return a | opaque // clwb, clflushopt
	case isMem && reg >= 4 && reg < 7:
		return a | reads(ax|dx)
	case isMem:
		return a
	case p&rep != 0 && reg < 2:
		return a | rmW
	case p&rep != 0 && reg < 4:
		return a | rmR
	case p&rep != 0 && (reg == 5 || reg == 6):
		return a | rmR | opaque // incssp, umonitor
	case p != 0 && reg == 6:
		return a | rmR | reads(ax|dx) | opaque // umwait, tpause
	case p&^opSize == 0 && reg >= 5, reg == 7:
		return a
	}
	return 0
}

// refineC7 handles group 9: cmpxchg16b, random numbers, more state saving.
func (s *Shape) refineC7(a attr, reg byte, isMem bool) attr {
	switch {
	case isMem && reg == 1:
		return a | both(ax|dx) | reads(bx|cx)
	case isMem && reg >= 3 && reg <= 5:
		return a | reads(ax|dx)
	case isMem && reg >= 6:
		return a
	case !isMem && reg == 6 && s.prefix&rep != 0:
		return a | rmR | opaque // senduipi
	case !isMem && reg == 7 && s.prefix&rep != 0:
		return a | rmW | opaque // rdpid
	case !isMem && reg >= 6:
		return a | rmW // rdrand, rdseed
	}
	return 0
}

// refineSIMD tells the 0F opcodes apart that move general registers with one
// mandatory prefix and vector registers with another.
func (s *Shape) refineSIMD(a attr) attr {
	scalar := s.prefix&(rep|repNE) != 0
	switch s.opcode {
	case 0x2a:
		if !scalar {
			return a &^ rmR
		}
	case 0x2c, 0x2d:
		if !scalar {
			return a &^ regW
		}
	case 0x7e:
		if scalar {
			return a &^ rmW
		}
	case 0x78:
		if s.prefix&(opSize|repNE) != 0 { // extrq, insertq: two bytes of immediate
			return known | modrm | imm16 | opaque
		}
	case 0x79:
		if s.prefix&(opSize|repNE) != 0 {
			return known | modrm | opaque
		}
	case 0xb8:
		if s.prefix&rep == 0 {
			return 0
		}
	case 0x0d:
		if s.modrm>>6 == 3 {
			return a | opaque
		}
	}
	return a
}

// refine38 tells the forms of 0F 38 apart.
func (s *Shape) refine38(a attr) attr {
	crc := s.prefix&repNE != 0
	switch s.opcode {
	case 0xf0, 0xf1:
		switch {
		case crc && s.opcode == 0xf0:
			return a | rm8
		case crc:
			return a
		case s.modrm>>6 == 3:
			return 0
		case s.opcode == 0xf0:
			return a&^regR | opaque // movbe from memory
		}
		return a&^regW | opaque // movbe to memory
	case 0xf6:
		if s.prefix&(opSize|rep) == 0 { // wrss
			if s.modrm>>6 == 3 {
				return 0
			}
			return a &^ regW
		}
	case 0xd8: // aesencwide and its like
		if s.modrm>>3&7 > 3 {
			return 0
		}
	}
	return a
}
