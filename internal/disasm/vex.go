package disasm

// readVEX consumes a VEX, EVEX or XOP prefix whose first byte is b, and the
// opcode (SDM volume 2, 2.3.5 and 2.7.1; APM volume 3, 1.2.7 for XOP).
func (s *Shape) readVEX(code []byte, pos int, b byte) (attr, int, error) {
	if s.prefix&(opSize|rep|repNE|lock) != 0 || s.rex != 0 {
		return 0, 0, ErrInvalid
	}
	need := 2 // bytes after b, the opcode included
	switch b {
	case 0xc4, 0x8f:
		need = 3
	case 0x62:
		need = 4
	}
	if pos+need > len(code) {
		return 0, 0, ErrTruncated
	}
	p := code[pos : pos+need]
	s.opcode = p[need-1]
	switch b {
	case 0xc5:
		s.opmap = vex + 1
		s.rex = ^p[0] >> 5 & rexR
		s.setVEX(p[0])
	case 0xc4:
		s.opmap = vex + opmap(p[0]&31)
		s.rex = ^p[0]>>5&7 | p[1]>>4&rexW
		s.setVEX(p[1])
		if s.opmap >= evex {
			return 0, 0, ErrInvalid
		}
	case 0x8f:
		s.opmap = xop + opmap(p[0]&31) - 8
		s.rex = ^p[0]>>5&7 | p[1]>>4&rexW
		s.setVEX(p[1])
		if s.opmap >= opmaps {
			return 0, 0, ErrInvalid
		}
	case 0x62:
		s.opmap = evex + opmap(p[0]&7)
		s.rex = ^p[0]>>5&7 | p[1]>>4&rexW
		s.setVEX(p[1])
		if p[0]&8 != 0 || p[1]&4 == 0 { // APX gives these bits a meaning
			return 0, 0, ErrInvalid
		}
	}
	a := s.vectorAttr()
	if a&known == 0 {
		return 0, 0, ErrInvalid
	}
	return a, pos + need, nil
}

// setVEX takes vvvv, L and the mandatory prefix from the byte that VEX and EVEX
// have in common.
func (s *Shape) setVEX(b byte) {
	s.vvvv = ^b >> 3 & 15
	s.vexL = b >> 2 & 1
	s.prefix |= [4]prefix{0, opSize, rep, repNE}[b&3]
}

// vectorAttr returns what is known about a VEX, EVEX or XOP opcode.
func (s *Shape) vectorAttr() attr {
	a := known | modrm | opaque
	switch s.opmap {
	case vex + 1, evex + 1:
		return s.vectorAttr0F(a)
	case vex + 2:
		return s.vexAttr38(a)
	case evex + 2:
		switch s.opcode {
		case 0x7a, 0x7b, 0x7c: // vpbroadcast from a general register
			return a | rmR
		}
		return a
	case vex + 3, evex + 3:
		return s.vectorAttr3A(a | imm8)
	case evex + 5:
		switch s.opcode {
		case 0x2a, 0x6e, 0x7b:
			return a | rmR
		case 0x2c, 0x2d, 0x78, 0x79:
			return a | regW
		case 0x7e:
			return a | rmW
		}
		return a
	case evex + 6:
		return a
	case xop:
		return a | imm8
	case xop + 1:
		switch s.opcode {
		case 0x01, 0x02: // blcfill and the rest of TBM
			return a | vvvvW | rmR
		case 0x12: // llwpcb, slwpcb
			return a | rmRW
		}
		return a
	case xop + 2:
		if s.opcode == 0x10 { // bextr
			return a | immD | regW | rmR
		}
		return a | immD | vvvvR | rmR // lwpins, lwpval
	}
	return 0
}

// vectorAttr0F is the map that VEX and EVEX share with SSE.
func (s *Shape) vectorAttr0F(a attr) attr {
	scalar := s.prefix&(rep|repNE) != 0
	switch op := s.opcode; {
	case op == 0x77 && s.opmap == vex+1: // vzeroupper, vzeroall
		return known | opaque
	case op >= 0x70 && op <= 0x73, op == 0xc2, op == 0xc6:
		return a | imm8
	case op == 0xc4:
		return a | imm8 | rmR
	case op == 0xc5:
		return a | imm8 | regW
	case op == 0x2a, op == 0x7b && s.opmap > evex:
		if scalar {
			return a | rmR
		}
	case op == 0x2c, op == 0x2d, (op == 0x78 || op == 0x79) && s.opmap > evex:
		if scalar {
			return a | regW
		}
	case op == 0x50, op == 0xd7, op == 0x93:
		return a | regW
	case op == 0x6e, op == 0x92:
		return a | rmR
	case op == 0x7e:
		if !scalar {
			return a | rmW
		}
	case op == 0xf7:
		return a | reads(di)
	}
	return a
}

// vexAttr38 has the integer instructions of BMI and CMPccXADD.
func (s *Shape) vexAttr38(a attr) attr {
	switch op := s.opcode; {
	case op == 0xf2: // andn
		return a&^opaque | regW | vvvvR | rmR
	case op == 0xf3: // blsr, blsmsk, blsi
		return a&^opaque | vvvvW | rmR
	case op == 0xf5, op == 0xf7: // bzhi pext pdep, bextr shlx sarx shrx
		return a&^opaque | regW | vvvvR | rmR
	case op == 0xf6: // mulx
		return a&^opaque | regW | vvvvW | rmR | reads(dx)
	case op >= 0xe0 && op <= 0xef:
		return a | regRW | vvvvR
	}
	return a
}

// vectorAttr3A is the map whose opcodes all have an immediate byte.
func (s *Shape) vectorAttr3A(a attr) attr {
	switch s.opcode {
	case 0x14, 0x15, 0x16, 0x17:
		return a | rmW
	case 0x20, 0x22:
		return a | rmR
	case 0x60:
		return a | reads(ax|dx)
	case 0x61:
		return a | reads(ax|dx) | writes(cx)
	case 0x63:
		return a | writes(cx)
	case 0xf0:
		if s.opmap == vex+3 {
			return a&^opaque | regW | rmR // rorx
		}
	}
	return a
}
