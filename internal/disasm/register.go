package disasm

import "strings"

// A Register is the number of a general purpose register as the hardware
// encodes it: 0 is rax, 4 is rsp, 15 is r15. Its parts (eax, ax, al, ah) have
// the number of the whole.
type Register uint8

// The 16 general purpose registers.
const (
	RAX Register = iota
	RCX
	RDX
	RBX
	RSP
	RBP
	RSI
	RDI
	R8
	R9
	R10
	R11
	R12
	R13
	R14
	R15
)

var registerNames = [16]string{
	"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
	"r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
}

func (r Register) String() string {
	if int(r) < len(registerNames) {
		return registerNames[r]
	}
	return "none"
}

// A RegSet is a set of general purpose registers: bit n stands for Register n.
type RegSet uint16

// AllRegs is the set of all general purpose registers, the answer where
// nothing is known.
const AllRegs RegSet = 0xffff

// Set returns the set of the registers given.
func Set(regs ...Register) RegSet {
	var s RegSet
	for _, r := range regs {
		s |= 1 << r
	}
	return s
}

// Has reports whether r is in the set.
func (s RegSet) Has(r Register) bool { return s>>r&1 != 0 }

// String lists the registers, in hardware order: "{rax rcx}".
func (s RegSet) String() string {
	var names []string
	for r := RAX; r <= R15; r++ {
		if s.Has(r) {
			names = append(names, r.String())
		}
	}
	return "{" + strings.Join(names, " ") + "}"
}
