package disasm

// An attr says how one opcode is encoded and what it does to the general
// registers. The zero attr is an opcode that does not exist.
type attr uint64

const (
	known   attr = 1 << iota // the opcode exists
	modrm                    // a ModRM byte follows
	group                    // refine knows more
	memory                   // exists with a memory operand only
	regR                     // reads the general register in ModRM.reg
	regW                     // writes it
	rmR                      // reads the operand in ModRM.rm if that is a general register
	rmW                      // writes it
	opR                      // reads the general register in the opcode's low three bits
	opW                      // writes it
	reg8                     // ModRM.reg (or the opcode's register) is 8 bits wide
	rm8                      // ModRM.rm is 8 bits wide
	vvvvR                    // reads the general register in VEX.vvvv
	vvvvW                    // writes it
	opaque                   // x86asm does not know the opcode, or not reliably
	unknown                  // valid, but the registers touched are not listed: all
	repeat                   // a rep prefix makes rcx a counter
	partial                  // a register written keeps its upper bits whatever the width
)

const (
	regRW = regR | regW
	rmRW  = rmR | rmW
	opRW  = opR | opW
)

// Immediates.
const (
	immShift      = 24
	immMask  attr = 15 << immShift
)

const (
	immNone attr = iota << immShift
	imm8         // 1 byte
	imm16        // 2 bytes
	immD         // 4 bytes
	immZ         // 2 or 4 bytes by operand size
	immV         // 2, 4 or 8 bytes by operand size
	imm16x8      // 2 bytes and 1 byte: enter
	immAddr      // an address of 4 or 8 bytes
	rel8         // 1 byte, relative to the next instruction
	rel32        // 4 bytes, relative to the next instruction
)

// Flow.
const (
	flowShift      = 28
	flowMask  attr = 15 << flowShift
)

func flows(f Flow) attr { return known | attr(f)<<flowShift }

// Implicit operands: registers read in bits 32 to 47, written in 48 to 63.
func reads(s RegSet) attr  { return attr(s) << 32 }
func writes(s RegSet) attr { return attr(s) << 48 }
func both(s RegSet) attr   { return reads(s) | writes(s) }

const (
	ax RegSet = 1 << RAX
	cx RegSet = 1 << RCX
	dx RegSet = 1 << RDX
	bx RegSet = 1 << RBX
	sp RegSet = 1 << RSP
	bp RegSet = 1 << RBP
	si RegSet = 1 << RSI
	di RegSet = 1 << RDI
)

// The opcode maps of SDM volume 2, appendix A, for 64-bit mode.
var (
	map1  = oneByteMap()   // no escape
	map0F = twoByteMap()   // 0F
	map38 = threeByteMap() // 0F 38
	map3A = immediateMap() // 0F 3A
)

func oneByteMap() (m [256]attr) {
	for op := range 8 { // add or adc sbb and sub xor cmp
		dst := attr(rmRW)
		dstReg, acc := attr(regRW), both(ax)
		if op == 7 {
			dst, dstReg, acc = rmR, regR, reads(ax)
		}
		b := op << 3
		m[b] = known | modrm | dst | regR | rm8 | reg8
		m[b+1] = known | modrm | dst | regR
		m[b+2] = known | modrm | dstReg | rmR | rm8 | reg8
		m[b+3] = known | modrm | dstReg | rmR
		m[b+4] = known | imm8 | acc
		m[b+5] = known | immZ | acc
	}
	for r := range 8 {
		m[0x50+r] = known | opR | both(sp)
		m[0x58+r] = known | opW | both(sp)
		m[0x90+r] = known | opRW | both(ax)
		m[0xb0+r] = known | opW | reg8 | imm8
		m[0xb8+r] = known | opW | immV
		m[0xd8+r] = known | modrm
	}
	for cc := range 16 {
		m[0x70+cc] = flows(CondJump) | rel8
	}
	m[0x90] |= group                     // nop
	m[0x63] = known | modrm | regW | rmR // movsxd
	m[0x68] = known | immZ | both(sp)
	m[0x69] = known | modrm | immZ | regW | rmR
	m[0x6a] = known | imm8 | both(sp)
	m[0x6b] = known | modrm | imm8 | regW | rmR
	ins, outs := known|repeat|reads(dx)|both(di), known|repeat|reads(dx)|both(si)
	m[0x6c], m[0x6d], m[0x6e], m[0x6f] = ins, ins, outs, outs
	m[0x80] = known | modrm | group | imm8 | rm8
	m[0x81] = known | modrm | group | immZ
	m[0x83] = known | modrm | group | imm8
	m[0x84] = known | modrm | rmR | regR | rm8 | reg8 // test
	m[0x85] = known | modrm | rmR | regR
	m[0x86] = known | modrm | rmRW | regRW | rm8 | reg8 // xchg
	m[0x87] = known | modrm | rmRW | regRW
	m[0x88] = known | modrm | rmW | regR | rm8 | reg8 // mov
	m[0x89] = known | modrm | rmW | regR
	m[0x8a] = known | modrm | rmR | regW | rm8 | reg8
	m[0x8b] = known | modrm | rmR | regW
	m[0x8c] = known | modrm | rmW           // mov from a segment register
	m[0x8d] = known | modrm | memory | regW // lea
	m[0x8e] = known | modrm | rmR           // mov to a segment register
	m[0x8f] = known | modrm | group | rmW | both(sp)
	m[0x98] = known | both(ax)                       // cbw cwde cdqe
	m[0x99] = known | group | reads(ax) | writes(dx) // cwd cdq cqo
	m[0x9b] = known                                  // fwait
	m[0x9c] = known | both(sp)                       // pushf
	m[0x9d] = known | both(sp)                       // popf
	m[0x9e] = known | reads(ax)                      // sahf
	m[0x9f] = known | both(ax)                       // lahf
	m[0xa0] = known | immAddr | both(ax)
	m[0xa1] = known | immAddr | both(ax)
	m[0xa2] = known | immAddr | reads(ax)
	m[0xa3] = known | immAddr | reads(ax)
	m[0xa8] = known | imm8 | reads(ax)
	m[0xa9] = known | immZ | reads(ax)
	for w := range 2 {
		m[0xa4+w] = known | repeat | both(si|di)          // movs
		m[0xa6+w] = known | repeat | both(si|di)          // cmps
		m[0xaa+w] = known | repeat | both(di) | reads(ax) // stos
		m[0xac+w] = known | repeat | both(si|ax)          // lods
		m[0xae+w] = known | repeat | both(di) | reads(ax) // scas
		m[0xe4+w] = known | imm8 | both(ax)               // in
		m[0xe6+w] = known | imm8 | reads(ax)              // out
		m[0xec+w] = known | both(ax) | reads(dx)
		m[0xee+w] = known | reads(ax|dx)
	}
	m[0xc0] = known | modrm | imm8 | rmRW | rm8 // shifts
	m[0xc1] = known | modrm | imm8 | rmRW
	m[0xd0] = known | modrm | rmRW | rm8
	m[0xd1] = known | modrm | rmRW
	m[0xd2] = known | modrm | rmRW | rm8 | reads(cx)
	m[0xd3] = known | modrm | rmRW | reads(cx)
	m[0xc2] = flows(Ret) | imm16 | both(sp)
	m[0xc3] = flows(Ret) | both(sp)
	m[0xc6] = known | modrm | group | imm8 | rmW | rm8
	m[0xc7] = known | modrm | group | immZ | rmW
	m[0xc8] = known | imm16x8 | both(sp|bp)     // enter
	m[0xc9] = known | reads(bp) | writes(sp|bp) // leave
	m[0xca] = flows(Ret) | imm16 | both(sp)
	m[0xcb] = flows(Ret) | both(sp)
	m[0xcc] = flows(Trap)
	m[0xcd] = flows(Trap) | imm8 // int; int 0x80 is told apart in Scan
	m[0xcf] = flows(Ret) | both(sp)
	m[0xd7] = known | both(ax) | reads(bx) // xlat
	m[0xe0] = flows(CondJump) | rel8 | both(cx)
	m[0xe1] = m[0xe0]
	m[0xe2] = m[0xe0]
	m[0xe3] = flows(CondJump) | rel8 | reads(cx)
	m[0xe8] = flows(Call) | rel32 | reads(AllRegs) | writes(AllRegs)
	m[0xe9] = flows(Jump) | rel32
	m[0xeb] = flows(Jump) | rel8
	m[0xf1] = flows(Trap)
	m[0xf4] = flows(Trap)
	for _, op := range []byte{0xf5, 0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd} {
		m[op] = known // flags
	}
	m[0xf6] = known | modrm | group | rm8
	m[0xf7] = known | modrm | group
	m[0xfe] = known | modrm | group | rm8
	m[0xff] = known | modrm | group
	return m
}

func twoByteMap() (m [256]attr) {
	fill := func(lo, hi int, a attr) {
		for op := lo; op <= hi; op++ {
			m[op] = a
		}
	}
	fill(0x10, 0x17, known|modrm) // SSE moves
	fill(0x18, 0x1f, known|modrm) // hints
	fill(0x28, 0x2f, known|modrm)
	fill(0x40, 0x4f, known|modrm|regRW|rmR) // cmov
	fill(0x50, 0x6f, known|modrm)
	fill(0x70, 0x73, known|modrm|imm8)
	fill(0x74, 0x76, known|modrm)
	fill(0x7c, 0x7f, known|modrm)
	fill(0x80, 0x8f, flows(CondJump)|rel32)
	fill(0x90, 0x9f, known|modrm|rmW|rm8) // setcc
	fill(0xc8, 0xcf, known|opRW)          // bswap
	fill(0xd0, 0xfe, known|modrm)

	m[0x00] = known | modrm | group
	m[0x01] = known | modrm | group
	m[0x02] = known | modrm | regRW | rmR // lar
	m[0x03] = known | modrm | regRW | rmR // lsl
	m[0x05] = flows(Syscall) | reads(AllRegs) | writes(ax|cx|1<<R11)
	m[0x06] = known
	m[0x07] = flows(Ret) | unknown
	m[0x08] = known
	m[0x09] = known
	m[0x0b] = flows(Trap)
	m[0x0d] = known | modrm
	m[0x0e] = known | opaque
	m[0x0f] = known | modrm | imm8 | opaque // 3DNow!
	m[0x1e] = known | modrm | group
	m[0x20] = known | modrm | rmW // mov from and to control and debug registers
	m[0x21] = known | modrm | rmW
	m[0x22] = known | modrm | rmR
	m[0x23] = known | modrm | rmR
	m[0x2a] = known | modrm | rmR  // cvtsi2ss; an mmx register in the packed forms
	m[0x2c] = known | modrm | regW // cvttss2si
	m[0x2d] = known | modrm | regW
	m[0x30] = known | reads(ax|cx|dx)
	m[0x31] = known | writes(ax|dx) // rdtsc
	m[0x32] = known | reads(cx) | writes(ax|dx)
	m[0x33] = known | reads(cx) | writes(ax|dx)
	m[0x34] = flows(Syscall) | unknown
	m[0x35] = flows(Ret) | unknown
	m[0x37] = known | unknown
	m[0x50] = known | modrm | regW // movmskps
	m[0x6e] = known | modrm | rmR
	m[0x77] = known // emms
	m[0x78] = known | modrm | rmW | regR
	m[0x79] = known | modrm | rmR | regR
	m[0x7e] = known | modrm | rmW
	m[0xa0] = known | both(sp)
	m[0xa1] = known | both(sp)
	m[0xa2] = known | reads(ax|cx) | writes(ax|bx|cx|dx) // cpuid
	m[0xa3] = known | modrm | rmR | regR                 // bt
	m[0xa4] = known | modrm | imm8 | rmRW | regR
	m[0xa5] = known | modrm | rmRW | regR | reads(cx)
	m[0xa6] = known | modrm | opaque | unknown // VIA PadLock
	m[0xa7] = known | modrm | opaque | unknown
	m[0xa8] = known | both(sp)
	m[0xa9] = known | both(sp)
	m[0xaa] = flows(Ret) | unknown // rsm
	m[0xab] = known | modrm | rmRW | regR
	m[0xac] = known | modrm | imm8 | rmRW | regR
	m[0xad] = known | modrm | rmRW | regR | reads(cx)
	m[0xae] = known | modrm | group
	m[0xaf] = known | modrm | regRW | rmR
	m[0xb0] = known | modrm | rmRW | regR | rm8 | reg8 | both(ax) // cmpxchg
	m[0xb1] = known | modrm | rmRW | regR | both(ax)
	m[0xb2] = known | modrm | regW // lss
	m[0xb3] = known | modrm | rmRW | regR
	m[0xb4] = known | modrm | regW
	m[0xb5] = known | modrm | regW
	m[0xb6] = known | modrm | regW | rmR | rm8 // movzx
	m[0xb7] = known | modrm | regW | rmR
	m[0xb8] = known | modrm | regW | rmR // popcnt, with F3
	m[0xb9] = flows(Trap) | modrm        // ud1
	m[0xba] = known | modrm | group | imm8
	m[0xbb] = known | modrm | rmRW | regR
	m[0xbc] = known | modrm | regRW | rmR // bsf keeps the target if the source is 0
	m[0xbd] = known | modrm | regRW | rmR
	m[0xbe] = known | modrm | regW | rmR | rm8
	m[0xbf] = known | modrm | regW | rmR
	m[0xc0] = known | modrm | rmRW | regRW | rm8 | reg8 // xadd
	m[0xc1] = known | modrm | rmRW | regRW
	m[0xc2] = known | modrm | imm8
	m[0xc3] = known | modrm | regR       // movnti
	m[0xc4] = known | modrm | imm8 | rmR // pinsrw
	m[0xc5] = known | modrm | imm8 | regW
	m[0xc6] = known | modrm | imm8
	m[0xc7] = known | modrm | group
	m[0xd7] = known | modrm | regW      // pmovmskb
	m[0xf7] = known | modrm | reads(di) // maskmovq
	m[0xff] = flows(Trap) | modrm       // ud0
	return m
}

// threeByteMap is 0F 38: always ModRM, never an immediate. formsOf knows which
// opcodes exist.
func threeByteMap() (m [256]attr) {
	for op := range m {
		m[op] = known | modrm
	}
	for _, op := range []byte{0x80, 0x81, 0x82, 0xf5, 0xf8, 0xf9, 0xfc} {
		m[op] |= regR // to memory
	}
	for _, op := range []byte{0xcf, 0xd8, 0xdc, 0xdd, 0xde, 0xdf, 0xf5, 0xf6, 0xf8, 0xf9, 0xfa, 0xfb, 0xfc} {
		m[op] |= opaque
	}
	m[0xf0] |= regRW | rmR // crc32; movbe is told apart in refine38
	m[0xf1] |= regRW | rmR
	m[0xf6] |= regRW | rmR // adcx, adox
	m[0xfa] |= regW | rmR  // encodekey
	m[0xfb] |= regW | rmR
	return m
}

// immediateMap is 0F 3A: always ModRM and one byte of immediate.
func immediateMap() (m [256]attr) {
	for op := range m {
		m[op] = known | modrm | imm8
	}
	for op := 0x14; op <= 0x17; op++ {
		m[op] |= rmW // pextr, extractps
	}
	m[0x20] |= rmR // pinsr
	m[0x22] |= rmR
	m[0x60] |= reads(ax | dx) // pcmpestrm
	m[0x61] |= reads(ax|dx) | writes(cx)
	m[0x63] |= writes(cx)
	m[0xce] |= opaque
	m[0xcf] |= opaque
	m[0xf0] |= opaque | reads(ax) // hreset
	return m
}
