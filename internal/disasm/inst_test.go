package disasm

import (
	"testing"

	"golang.org/x/arch/x86/x86asm"
)

// flowOf is what a mnemonic of x86asm says about the flow of control; Next
// for those not listed. Direct and indirect transfers share mnemonics.
var flowOf = map[x86asm.Op]Flow{
	x86asm.CALL: Call, x86asm.LCALL: Call, x86asm.JMP: Jump, x86asm.LJMP: Jump,
	x86asm.RET: Ret, x86asm.LRET: Ret, x86asm.IRET: Ret, x86asm.IRETD: Ret, x86asm.IRETQ: Ret,
	x86asm.SYSRET: Ret, x86asm.SYSEXIT: Ret, x86asm.RSM: Ret,
	x86asm.SYSCALL: Syscall, x86asm.SYSENTER: Syscall,
	x86asm.INT: Trap, x86asm.ICEBP: Trap, x86asm.HLT: Trap,
	x86asm.UD0: Trap, x86asm.UD1: Trap, x86asm.UD2: Trap,
	x86asm.JA: CondJump, x86asm.JAE: CondJump, x86asm.JB: CondJump, x86asm.JBE: CondJump,
	x86asm.JE: CondJump, x86asm.JNE: CondJump, x86asm.JG: CondJump, x86asm.JGE: CondJump,
	x86asm.JL: CondJump, x86asm.JLE: CondJump, x86asm.JO: CondJump, x86asm.JNO: CondJump,
	x86asm.JP: CondJump, x86asm.JNP: CondJump, x86asm.JS: CondJump, x86asm.JNS: CondJump,
	x86asm.JCXZ: CondJump, x86asm.JECXZ: CondJump, x86asm.JRCXZ: CondJump,
	x86asm.LOOP: CondJump, x86asm.LOOPE: CondJump, x86asm.LOOPNE: CondJump, x86asm.XBEGIN: CondJump,
}

// TestDecodeAgainstX86asm sweeps libc: where x86asm gives a mnemonic and
// operands, they must fit the shape.
func TestDecodeAgainstX86asm(t *testing.T) {
	code := text(t, corpus[0])
	total, opaque := 0, 0
	for pos := 0; pos < len(code); {
		i, err := Decode(code[pos:])
		if err != nil {
			t.Errorf("%#x: % x: %v", pos, code[pos:min(pos+MaxLen, len(code))], err)
			pos++
			continue
		}
		total++
		if i.Op >= Opaque {
			opaque++
		} else {
			compare(t, &i, code[pos:pos+i.Len])
		}
		pos += i.Len
	}
	t.Logf("%d instructions, %d without a mnemonic", total, opaque)
}

func compare(t *testing.T, i *Inst, code []byte) {
	flow := i.Flow()
	if flow == CallIndirect || flow == JumpIndirect {
		flow-- // to the direct one
	}
	if want := flowOf[i.Op]; flow != want && !(i.Op == x86asm.INT && flow == Syscall) {
		t.Errorf("% x: %v: flow %v, want %v", code, i, i.Flow(), want)
	}
	touched := i.Reads() | i.Writes()
	if i.Op == x86asm.NOP {
		touched = AllRegs
	}
	for _, arg := range i.Args {
		switch arg := arg.(type) {
		case x86asm.Reg:
			if r, ok := general(arg); ok && !touched.Has(r) {
				t.Errorf("% x: %v: %v is neither in reads %v nor in writes %v", code, i, arg, i.Reads(), i.Writes())
			}
		case x86asm.Mem:
			for _, reg := range []x86asm.Reg{arg.Base, arg.Index} {
				if r, ok := general(reg); ok && !i.Reads().Has(r) {
					t.Errorf("% x: %v: %v is not in reads %v", code, i, reg, i.Reads())
				}
			}
		}
	}
}

// general returns the general register that a register of x86asm is or is a
// part of.
func general(r x86asm.Reg) (Register, bool) {
	switch {
	case r >= x86asm.AH && r <= x86asm.BH:
		return Register(r - x86asm.AH), true
	case r >= x86asm.AL && r <= x86asm.BL:
		return Register(r - x86asm.AL), true
	case r >= x86asm.SPB && r <= x86asm.R15B:
		return Register(r-x86asm.SPB) + RSP, true
	case r >= x86asm.AX && r <= x86asm.R15W:
		return Register(r - x86asm.AX), true
	case r >= x86asm.EAX && r <= x86asm.R15L:
		return Register(r - x86asm.EAX), true
	case r >= x86asm.RAX && r <= x86asm.R15:
		return Register(r - x86asm.RAX), true
	}
	return NoRegister, false
}

// TestMendedOperands has operands that x86asm alone gets wrong.
func TestMendedOperands(t *testing.T) {
	tests := []struct {
		text string
		code []byte
		want x86asm.Mem
	}{
		{"lea rax, [rip-16]", []byte{0x48, 0x8d, 0x05, 0xf0, 0xff, 0xff, 0xff}, x86asm.Mem{Base: x86asm.RIP, Disp: -16}},
		{"mov eax, [rbp-0x90]", []byte{0x8b, 0x85, 0x70, 0xff, 0xff, 0xff}, x86asm.Mem{Base: x86asm.RBP, Disp: -0x90}},
		{"andn eax, ebx, [rip+1]", []byte{0xc4, 0xe2, 0x60, 0xf2, 0x05, 1, 0, 0, 0}, x86asm.Mem{Base: x86asm.RIP, Disp: 1}},
	}
	for _, tt := range tests {
		i, err := Decode(tt.code)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		got, ok := x86asm.Mem{}, false
		for _, arg := range i.Args {
			if m, isMem := arg.(x86asm.Mem); isMem {
				got, ok = m, true
			}
		}
		if got != tt.want || !ok {
			t.Errorf("%s: memory operand %+v, %v, want %+v", tt.text, got, ok, tt.want)
		}
	}
}
