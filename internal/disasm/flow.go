package disasm

// A Flow is what an instruction does to the flow of control.
type Flow uint8

// The kinds of flow. Far transfers count with the near ones: lcall with
// calls, ljmp with jumps, lret, iret, sysret and uiret with returns.
const (
	Next         Flow = iota // goes on with the instruction after it
	Call                     // to a target in the instruction
	CallIndirect             // to a target in a register or in memory
	Jump                     // to a target in the instruction
	JumpIndirect             // to a target in a register or in memory
	CondJump                 // to a target in the instruction, or on: jcc, jrcxz, loop, xbegin
	Ret                      // to an address from the stack or from the kernel
	Syscall                  // enters the kernel for a system call: syscall, sysenter, int 0x80
	Trap                     // raises an exception: ud0, ud1, ud2, hlt, int1, int3, int n
)

var flowNames = [...]string{
	"next", "call", "indirect call", "jump", "indirect jump", "conditional jump", "ret", "syscall", "trap",
}

func (f Flow) String() string {
	if int(f) < len(flowNames) {
		return flowNames[f]
	}
	return "unknown"
}

// Flow returns what the instruction does to the flow of control.
func (s *Shape) Flow() Flow { return s.flow }

// IsCall reports whether s is a call, direct or indirect.
func (s *Shape) IsCall() bool { return s.flow == Call || s.flow == CallIndirect }

// IsJump reports whether s is an unconditional jump, direct or indirect.
func (s *Shape) IsJump() bool { return s.flow == Jump || s.flow == JumpIndirect }

// IsCondJump reports whether s either jumps to its Target or goes on.
func (s *Shape) IsCondJump() bool { return s.flow == CondJump }

// IsRet reports whether s returns.
func (s *Shape) IsRet() bool { return s.flow == Ret }

// IsSyscall reports whether s enters the kernel for a system call: syscall,
// sysenter or int 0x80. The latter two use the i386 numbers.
func (s *Shape) IsSyscall() bool { return s.flow == Syscall }

// IsTrap reports whether s raises an exception, so that control does not
// ordinarily go on after it.
func (s *Shape) IsTrap() bool { return s.flow == Trap }

// FallsThrough reports whether control can reach the instruction after s
// without a return to it: not after a jump, a return or a trap.
func (s *Shape) FallsThrough() bool {
	switch s.flow {
	case Jump, JumpIndirect, Ret, Trap:
		return false
	}
	return true
}

// Target returns where a direct call or jump at address addr goes to.
func (s *Shape) Target(addr uint64) (target uint64, ok bool) {
	switch s.flow {
	case Call, Jump, CondJump:
		return addr + uint64(s.size) + uint64(s.imm), true
	}
	return 0, false
}
