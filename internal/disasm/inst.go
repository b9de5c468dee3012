package disasm

import "golang.org/x/arch/x86/x86asm"

// The operations that x86asm has no number for.
const (
	// Opaque is an instruction of which only the Shape is known: no mnemonic.
	// It does not branch, and it touches rsp only if Writes has it.
	Opaque x86asm.Op = 1<<30 + iota
	ENDBR32
	ENDBR64
	RDSSPD
	RDSSPQ
	INCSSPD
	INCSSPQ
	ADCX
	ADOX
)

var opNames = map[x86asm.Op]string{
	Opaque: "(opaque)", ENDBR32: "ENDBR32", ENDBR64: "ENDBR64", RDSSPD: "RDSSPD", RDSSPQ: "RDSSPQ",
	INCSSPD: "INCSSPD", INCSSPQ: "INCSSPQ", ADCX: "ADCX", ADOX: "ADOX",
}

// An Inst is one instruction with its mnemonic and operands. Op is never 0
// and Len is Size. If Op is Opaque or one of this package's own, Args holds
// at most registers, as far as they are known.
type Inst struct {
	x86asm.Inst
	Shape
}

// String gives the instruction in x86asm's notation.
func (i Inst) String() string {
	if name, ok := opNames[i.Op]; ok {
		return name
	}
	return i.Inst.String()
}

// Decode decodes the first instruction in code. Bytes after it do not matter.
func Decode(code []byte) (Inst, error) {
	var i Inst
	if err := i.Shape.scan(code); err != nil {
		return Inst{}, err
	}
	code = code[:i.size]
	if !i.opaque {
		inst, err := x86asm.Decode(code, 64)
		if err == nil && inst.Op != 0 && inst.Len == len(code) {
			i.Inst = inst
			i.mendMemory()
			return i, nil
		}
		if i.flow != Next && i.flow != CondJump {
			return Inst{}, ErrInvalid
		}
	}
	i.Inst = x86asm.Inst{Op: i.ownOp(), Mode: 64, AddrSize: 64, Len: len(code)}
	return i, nil
}

// mendMemory signs the displacement, which x86asm extends with zeros, and
// gives VEX operands the rip base and the segment that it forgets.
func (i *Inst) mendMemory() {
	m, ok := i.Memory()
	if !ok {
		return
	}
	for n, a := range i.Args {
		if arg, ok := a.(x86asm.Mem); ok {
			arg.Disp = m.Disp
			if m.Base == RIP && arg.Base == 0 {
				arg.Base = x86asm.RIP
			}
			i.Args[n] = arg
		}
	}
}

// ownOp names the instructions that x86asm does not know and that callers ask for.
func (i *Inst) ownOp() x86asm.Op {
	wide := i.rex&rexW != 0
	pick := func(narrowOp, wideOp x86asm.Op) x86asm.Op {
		if wide {
			return wideOp
		}
		return narrowOp
	}
	isReg := i.hasMod && i.modrm>>6 == 3
	switch {
	case i.opmap == legacy0F && i.opcode == 0x1e && i.prefix&rep != 0 && i.modrm == 0xfa:
		return ENDBR64
	case i.opmap == legacy0F && i.opcode == 0x1e && i.prefix&rep != 0 && i.modrm == 0xfb:
		return ENDBR32
	case i.opmap == legacy0F && i.opcode == 0x1e && i.prefix&rep != 0 && isReg:
		return pick(RDSSPD, RDSSPQ)
	case i.opmap == legacy0F && i.opcode == 0xae && i.prefix&rep != 0 && isReg && i.modrm>>3&7 == 5:
		return pick(INCSSPD, INCSSPQ)
	case i.opmap == legacy38 && i.opcode == 0xf6 && i.prefix&opSize != 0:
		return ADCX
	case i.opmap == legacy38 && i.opcode == 0xf6 && i.prefix&rep != 0:
		return ADOX
	case i.opmap == vex+1 && i.opcode == 0x77:
		if i.vexL != 0 {
			return x86asm.VZEROALL
		}
		return x86asm.VZEROUPPER
	}
	return Opaque
}
