package seccomp

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"bulkhead/internal/syscalls"
)

// machine runs a compiled filter in the VM of golang.org/x/net/bpf.
type machine struct{ *bpf.VM }

func compile(t interface{ Fatal(...any) }, f *Filter) machine {
	program, err := f.Compile()
	if err != nil {
		t.Fatal(err)
	}
	decoded, ok := bpf.Disassemble(program)
	if !ok {
		t.Fatal("the program does not disassemble")
	}
	vm, err := bpf.NewVM(decoded)
	if err != nil {
		t.Fatal(err)
	}
	return machine{vm}
}

func (m machine) evaluate(t interface{ Fatal(...any) }, c *Call) Action {
	return m.run(t, seccompData(c, archOf(c.ABI)))
}

func (m machine) run(t interface{ Fatal(...any) }, data []byte) Action {
	result, err := m.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return Action(uint32(result))
}

func archOf(abi syscalls.ABI) uint32 {
	if abi == syscalls.I386 {
		return unix.AUDIT_ARCH_I386
	}
	return unix.AUDIT_ARCH_X86_64
}

// seccompData is struct seccomp_data of a little-endian machine with each 32-bit word in network order, which is how the
// VM loads it.
func seccompData(c *Call, arch uint32) []byte {
	words := []uint32{c.NR, arch, uint32(c.IP), uint32(c.IP >> 32)}
	for _, arg := range c.Args {
		words = append(words, uint32(arg), uint32(arg>>32))
	}
	var data []byte
	for _, w := range words {
		data = binary.BigEndian.AppendUint32(data, w)
	}
	return data
}

var abis = []syscalls.ABI{syscalls.AMD64, syscalls.I386, syscalls.X32}

func drawNumber(t *rapid.T, abi syscalls.ABI) int {
	nr := rapid.OneOf(rapid.IntRange(0, 470), rapid.Just(0), rapid.IntRange(0, syscalls.X32Bit-1)).Draw(t, "nr")
	if abi == syscalls.X32 {
		nr |= syscalls.X32Bit
	}
	return nr
}

var words = rapid.OneOf(rapid.Uint64Range(0, 8), rapid.Uint64(), rapid.SampledFrom([]uint64{
	1<<32 - 1, 1 << 32, 1<<32 + 1, 1<<63 - 1, 1 << 63, 1<<64 - 1, 0x7f0000001000, 0x7f0100001000,
}))

func drawTest(t *rapid.T) Test {
	if rapid.Bool().Draw(t, "address") {
		return Within(words.Draw(t, "low"), words.Draw(t, "high"))
	}
	mask := words.Draw(t, "mask")
	value := words.Draw(t, "value")
	if rapid.Bool().Draw(t, "possible") {
		value &= mask
	}
	return Argument(rapid.IntRange(0, 5).Draw(t, "arg"), mask, value)
}

var actions = rapid.SampledFrom([]Action{Allow, Errno(unix.EPERM), Errno(unix.ENOSYS), Trace(1), Trace(2), KillProcess})

func drawFilter(t *rapid.T) *Filter {
	f := &Filter{Default: actions.Draw(t, "default")}
	if rapid.Bool().Draw(t, "defaults") {
		f.Defaults = map[syscalls.ABI]Action{rapid.SampledFrom(abis).Draw(t, "of"): actions.Draw(t, "is")}
	}
	taken := map[string]bool{}
	for range rapid.IntRange(0, 300).Draw(t, "rules") {
		r := Rule{ABI: rapid.SampledFrom(abis).Draw(t, "abi"), Action: actions.Draw(t, "action")}
		r.NR = drawNumber(t, r.ABI)
		if key := fmt.Sprint(r.ABI, r.NR); taken[key] {
			continue
		} else {
			taken[key] = true
		}
		for range rapid.SampledFrom([]int{0, 0, 0, 0, 1, 2}).Draw(t, "cases") {
			r.Cases = append(r.Cases, Case{drawTest(t), actions.Draw(t, "case")})
		}
		f.Rules = append(f.Rules, r)
	}
	return f
}

// near draws a number that some test of the filter compares with, or the one beside it.
func (f *Filter) near(t *rapid.T) uint64 {
	candidates := []uint64{0}
	for _, r := range f.Rules {
		for _, c := range r.Cases {
			candidates = append(candidates, c.Test.Low, c.Test.High, c.Test.Value, c.Test.Value|^c.Test.Mask)
		}
	}
	return rapid.SampledFrom(candidates).Draw(t, "near") + rapid.Uint64Range(0, 2).Draw(t, "beside") - 1
}

// TestCompile compares compiled filters with what they were compiled from.
func TestCompile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFilter(t)
		program, err := f.Compile()
		if err != nil {
			return // too many tests for one program
		}
		if len(program) > MaxInstructions {
			t.Fatalf("%d instructions", len(program))
		}
		vm := compile(t, f)
		for _, r := range f.Rules {
			for d := -1; d <= 1; d++ {
				c := Call{ABI: r.ABI, NR: uint32(r.NR + d), IP: f.near(t)}
				if abi := c.ABI; abi != syscalls.I386 && (c.NR >= syscalls.X32Bit) != (abi == syscalls.X32) {
					continue
				}
				for i := range c.Args {
					c.Args[i] = f.near(t)
				}
				if got, want := vm.evaluate(t, &c), f.Evaluate(&c); got != want {
					t.Fatalf("%+v: %v, want %v", c, got, want)
				}
			}
		}
	})
}

// TestOtherABIs gives numbers of ABIs that the machine does not have the default.
func TestOtherABIs(t *testing.T) {
	f := &Filter{Default: KillProcess, Rules: []Rule{{ABI: syscalls.AMD64, NR: 1, Action: Allow}}}
	vm := compile(t, f)
	for _, arch := range []uint32{unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_I386, 0, unix.AUDIT_ARCH_X86_64 + 1} {
		if got := vm.run(t, seccompData(&Call{NR: 1}, arch)); got != KillProcess {
			t.Errorf("arch %#x: %v", arch, got)
		}
	}
	if got := vm.run(t, seccompData(&Call{NR: 1}, unix.AUDIT_ARCH_X86_64)); got != Allow {
		t.Errorf("amd64: %v", got)
	}
}

// TestEveryCall asks a filter like a policy's about every number that there is.
func TestEveryCall(t *testing.T) {
	f := policyLike(3)
	vm := compile(t, f)
	for _, abi := range abis {
		for nr := range 1 << 12 {
			c := Call{ABI: abi, NR: uint32(nr)}
			if abi == syscalls.X32 {
				c.NR |= syscalls.X32Bit
			}
			if got, want := vm.evaluate(t, &c), f.Evaluate(&c); got != want {
				t.Fatalf("%v %d: %v, want %v", abi, nr, got, want)
			}
		}
	}
}

// policyLike allows every n-th call of each ABI and traces the others that have a name.
func policyLike(n int) *Filter {
	f := &Filter{Default: Errno(unix.EPERM)}
	for _, abi := range abis {
		for nr := range syscalls.All(abi) {
			r := Rule{ABI: abi, NR: nr, Action: Trace(1)}
			if nr%n == 0 {
				r.Action = Allow
			}
			f.Rules = append(f.Rules, r)
		}
	}
	return f
}

// TestCost counts instructions on the way to a verdict: they grow with the logarithm of the rules.
func TestCost(t *testing.T) {
	worst := map[int]int{}
	for _, rules := range []int{16, 256} {
		f := &Filter{Default: Allow}
		for i := range rules {
			f.Rules = append(f.Rules, Rule{ABI: syscalls.AMD64, NR: 2 * i, Action: Errno(1)})
		}
		program, err := f.Compile()
		if err != nil {
			t.Fatal(err)
		}
		for nr := range 2*rules + 2 {
			worst[rules] = max(worst[rules], steps(t, program, uint32(nr)))
		}
	}
	if worst[256] > worst[16]+10 {
		t.Errorf("%d instructions with 16 rules, %d with 256", worst[16], worst[256])
	}
}

// steps runs a program that looks at the number and the ABI only.
func steps(t *testing.T, program []bpf.RawInstruction, nr uint32) (n int) {
	var a uint32
	for pc := 0; ; pc++ {
		n++
		switch in := program[pc].Disassemble().(type) {
		case bpf.LoadAbsolute:
			a = map[uint32]uint32{offsetNR: nr, offsetArch: unix.AUDIT_ARCH_X86_64}[in.Off]
		case bpf.Jump:
			pc += int(in.Skip)
		case bpf.JumpIf:
			holds := map[bpf.JumpTest]bool{
				bpf.JumpEqual: a == in.Val, bpf.JumpNotEqual: a != in.Val,
				bpf.JumpGreaterOrEqual: a >= in.Val, bpf.JumpLessThan: a < in.Val,
			}
			if holds[in.Cond] {
				pc += int(in.SkipTrue)
			} else {
				pc += int(in.SkipFalse)
			}
		case bpf.RetConstant:
			return n
		default:
			t.Fatalf("instruction %v", in)
		}
	}
}

func TestTooLarge(t *testing.T) {
	f := &Filter{Default: Allow}
	for i := range 3000 {
		f.Rules = append(f.Rules, Rule{ABI: syscalls.I386, NR: 2 * i, Action: Errno(1)})
	}
	if _, err := f.Compile(); err == nil {
		t.Error("6000 spans fit into 4096 instructions")
	}
}

func TestTwoRules(t *testing.T) {
	f := &Filter{Rules: []Rule{{ABI: syscalls.AMD64, NR: 1}, {ABI: syscalls.AMD64, NR: 1}}}
	if _, err := f.Compile(); err == nil {
		t.Error("two rules for one number compile")
	}
	f = &Filter{Rules: []Rule{{ABI: syscalls.X32, NR: 1}}}
	if _, err := f.Compile(); err == nil {
		t.Error("a number without its bit compiles for x32")
	}
}

// TestInstall lets the kernel judge: on a thread of its own, which ends with the test.
func TestInstall(t *testing.T) {
	f := policyLike(1) // all named calls are allowed
	ppid := slices.IndexFunc(f.Rules, func(r Rule) bool { return r.ABI == syscalls.AMD64 && r.NR == unix.SYS_GETPPID })
	f.Rules[ppid].Action = Errno(unix.EXDEV)
	pgid := slices.IndexFunc(f.Rules, func(r Rule) bool { return r.ABI == syscalls.AMD64 && r.NR == unix.SYS_GETPGID })
	f.Rules[pgid].Cases = []Case{{Argument(0, 1<<64-1, 0x1_0000_0000), Errno(unix.EXDEV)}}
	program, err := f.Compile()
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		failed <- func() error {
			if err := Install(program); err != nil {
				return err
			}
			if _, _, e := unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); e != unix.EXDEV {
				return fmt.Errorf("getppid: %v", e)
			}
			if _, _, e := unix.RawSyscall(unix.SYS_GETPGID, 0, 0, 0); e != 0 {
				return fmt.Errorf("getpgid(0): %v", e)
			}
			if _, _, e := unix.RawSyscall(unix.SYS_GETPGID, 0x1_0000_0000, 0, 0); e != unix.EXDEV {
				return fmt.Errorf("getpgid(1<<32): %v", e)
			}
			if _, _, e := unix.RawSyscall(5000, 0, 0, 0); e != unix.EPERM {
				return fmt.Errorf("call 5000: %v", e)
			}
			return nil
		}()
	}()
	if err := <-failed; err != nil {
		t.Error(err)
	}
}
