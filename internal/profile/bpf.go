package profile

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"bulkhead/internal/policy"
	"bulkhead/internal/seccomp"
	"bulkhead/internal/syscalls"
)

// retLog is SECCOMP_RET_LOG: the call is made, and written to the kernel's log.
const retLog seccomp.Action = 0x7ffc0000

// filter returns the rules of the one filter.
func (p *Profile) filter() *seccomp.Filter {
	f := &seccomp.Filter{}
	switch p.OnViolation {
	case policy.Kill:
		f.Default = seccomp.KillProcess
	case policy.Audit:
		f.Default = retLog
	default:
		f.Default = seccomp.Errno(unix.ENOSYS)
		rules, _ := p.Policy.Rules(p.Policy.Programs[0].Path)
		for _, abi := range []syscalls.ABI{syscalls.AMD64, syscalls.I386, syscalls.X32} {
			for nr := range syscalls.All(abi) {
				if e := rules.Errno(abi, nr); e != unix.ENOSYS && !p.Allows(policy.Number{ABI: abi, NR: nr}) {
					f.Rules = append(f.Rules, seccomp.Rule{ABI: abi, NR: nr, Action: seccomp.Errno(e)})
				}
			}
		}
	}
	for _, n := range p.Calls {
		f.Rules = append(f.Rules, seccomp.Rule{ABI: n.ABI, NR: n.NR, Action: seccomp.Allow})
	}
	return f
}

func (p *Profile) compile() ([]bpf.RawInstruction, error) {
	if p.ABI == syscalls.ARM64 {
		return nil, fmt.Errorf("%s is of arm64: BPF programs are made for amd64 only", p.Policy.Programs[0].Path)
	}
	return p.filter().Compile()
}

// writeBPF writes struct sock_filter[] (linux/filter.h), little-endian.
func writeBPF(w io.Writer, p *Profile, _ Options) error {
	program, err := p.compile()
	if err != nil {
		return err
	}
	return binary.Write(w, binary.LittleEndian, program)
}

func writeBPFText(w io.Writer, p *Profile, _ Options) error {
	program, err := p.compile()
	if err != nil {
		return err
	}
	instructions, _ := bpf.Disassemble(program)
	out := bufio.NewWriter(w)
	for i, instruction := range instructions {
		fmt.Fprintf(out, "%4d  %s\n", i, describe(i, instruction))
	}
	return out.Flush()
}

// describe is an instruction in words: what it loads, and where jumps lead.
func describe(at int, instruction bpf.Instruction) string {
	switch i := instruction.(type) {
	case bpf.LoadAbsolute:
		field := map[uint32]string{0: "nr", 4: "arch", 8: "ip, low half", 12: "ip, high half"}[i.Off]
		return fmt.Sprintf("load %s", field)
	case bpf.Jump:
		return fmt.Sprintf("goto %d", at+1+int(i.Skip))
	case bpf.JumpIf:
		operator := map[bpf.JumpTest]string{bpf.JumpEqual: "==", bpf.JumpNotEqual: "!=", bpf.JumpGreaterThan: ">",
			bpf.JumpLessThan: "<", bpf.JumpGreaterOrEqual: ">=", bpf.JumpLessOrEqual: "<="}[i.Cond]
		return fmt.Sprintf("if %s %s goto %d else goto %d", operator, operand(i.Val), at+1+int(i.SkipTrue), at+1+int(i.SkipFalse))
	case bpf.RetConstant:
		if action := seccomp.Action(i.Val); action == retLog {
			return "return log"
		} else if e := i.Val & 0xffff; action == seccomp.Errno(unix.Errno(e)) {
			return "return " + unix.ErrnoName(unix.Errno(e))
		}
		return "return " + seccomp.Action(i.Val).String()
	}
	return fmt.Sprint(instruction)
}

// operand names architectures; other values are numbers.
func operand(v uint32) string {
	switch v {
	case unix.AUDIT_ARCH_X86_64:
		return "x86_64"
	case unix.AUDIT_ARCH_I386:
		return "i386"
	}
	if v >= syscalls.X32Bit {
		return fmt.Sprintf("%#x", v)
	}
	return fmt.Sprint(v)
}
