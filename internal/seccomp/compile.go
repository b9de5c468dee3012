package seccomp

import (
	"fmt"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"bulkhead/internal/syscalls"
)

// MaxInstructions is what the kernel takes for one program (BPF_MAXINSNS).
const MaxInstructions = 4096

// Offsets in struct seccomp_data (linux/seccomp.h).
const (
	offsetNR   = 0
	offsetArch = 4
	offsetIP   = 8
	offsetArgs = 16
)

// Compile returns the program of a filter. Its cost for a call grows with the logarithm of the number of rules.
func (f *Filter) Compile() ([]bpf.RawInstruction, error) {
	var a assembler
	trees := map[syscalls.ABI]label{}
	for _, abi := range []syscalls.ABI{syscalls.I386, syscalls.X32, syscalls.AMD64} {
		spans, err := f.spans(abi)
		if err != nil {
			return nil, err
		}
		trees[abi] = a.tree(spans)
	}
	// The first instructions come last: see assembler.
	other := a.action(f.Default)
	i386 := a.test(unix.AUDIT_ARCH_I386, bpf.JumpEqual, a.loaded(offsetNR, trees[syscalls.I386]), other)
	amd64 := a.loaded(offsetNR, a.test(syscalls.X32Bit, bpf.JumpGreaterOrEqual, trees[syscalls.X32], trees[syscalls.AMD64]))
	a.loaded(offsetArch, a.test(unix.AUDIT_ARCH_X86_64, bpf.JumpEqual, amd64, i386))
	return a.program()
}

// label is an instruction of an assembler, by its distance from the program's end.
type label int

// assembler writes a program from its end to its beginning, so that every jump, which classic BPF knows forwards only,
// leads to what is there already.
type assembler struct {
	reversed []bpf.Instruction
	returns  map[Action]label // the latest of each
}

func (a *assembler) emit(i bpf.Instruction) label {
	a.reversed = append(a.reversed, i)
	return label(len(a.reversed) - 1)
}

// distance is how many instructions the next one would jump over to reach one.
func (a *assembler) distance(to label) int { return len(a.reversed) - 1 - int(to) }

// near returns a place that leads to a label and that the next few instructions can jump to conditionally: an offset of
// theirs has 8 bits.
func (a *assembler) near(to label) label {
	const room = 4 // instructions before the jump, far jumps of its other way among them
	if a.distance(to)+room > 255 {
		return a.emit(bpf.Jump{Skip: uint32(a.distance(to))})
	}
	return to
}

// action returns a place that ends the program with an action.
func (a *assembler) action(action Action) label {
	const reuse = 200 // a second return costs less than a far jump
	if at, ok := a.returns[action]; ok && a.distance(at) < reuse {
		return at
	}
	if a.returns == nil {
		a.returns = map[Action]label{}
	}
	at := a.emit(bpf.RetConstant{Val: uint32(action)})
	a.returns[action] = at
	return at
}

// test goes one of two ways, by a comparison of what is loaded with a constant.
func (a *assembler) test(value uint32, cond bpf.JumpTest, yes, no label) label {
	yes = a.near(yes)
	no = a.near(no)
	return a.emit(bpf.JumpIf{Cond: cond, Val: value, SkipTrue: uint8(a.distance(yes)), SkipFalse: uint8(a.distance(no))})
}

// loaded loads a word and goes on at a place.
func (a *assembler) loaded(offset uint32, then label) label {
	if a.distance(then) > 0 {
		a.emit(bpf.Jump{Skip: uint32(a.distance(then))})
	}
	return a.emit(bpf.LoadAbsolute{Off: offset, Size: 4})
}

// tree finds the span of the number that is loaded.
func (a *assembler) tree(spans []span) label {
	if len(spans) == 1 {
		return a.leaf(&spans[0])
	}
	middle := len(spans) / 2
	high := a.tree(spans[middle:])
	low := a.tree(spans[:middle])
	return a.test(spans[middle].from, bpf.JumpGreaterOrEqual, high, low)
}

func (a *assembler) leaf(s *span) label {
	at := a.action(s.action)
	for i := len(s.cases) - 1; i >= 0; i-- {
		at = a.test64(s.cases[i].Test, a.action(s.cases[i].Action), at)
	}
	return at
}

// test64 goes one of two ways by a test. Registers have 64 bits, and classic BPF loads 32 of them at a time.
func (a *assembler) test64(t Test, yes, no label) label {
	if t.Kind == TestAddress {
		below := a.atLeast(offsetIP, t.High, no, yes)
		return a.atLeast(offsetIP, t.Low, below, no)
	}
	offset := uint32(offsetArgs + 8*t.Arg)
	at := a.bits(offset, uint32(t.Mask), uint32(t.Value), yes, no)
	return a.bits(offset+4, uint32(t.Mask>>32), uint32(t.Value>>32), at, no)
}

// bits compares some bits of a word.
func (a *assembler) bits(offset, mask, value uint32, yes, no label) label {
	if mask == 0 && value == 0 {
		return yes
	}
	at := a.test(value, bpf.JumpEqual, yes, no)
	if mask != 1<<32-1 {
		at = a.emit(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask})
	}
	return a.loaded(offset, at)
}

// atLeast compares a 64-bit number.
func (a *assembler) atLeast(offset uint32, bound uint64, yes, no label) label {
	low := a.loaded(offset, a.test(uint32(bound), bpf.JumpGreaterOrEqual, yes, no))
	equal := a.test(uint32(bound>>32), bpf.JumpEqual, low, no)
	return a.loaded(offset+4, a.test(uint32(bound>>32), bpf.JumpGreaterThan, yes, equal))
}

// program returns the instructions in their order.
func (a *assembler) program() ([]bpf.RawInstruction, error) {
	if n := len(a.reversed); n > MaxInstructions {
		return nil, fmt.Errorf("the seccomp filter has %d instructions, and the kernel takes %d: name fewer system calls", n, MaxInstructions)
	}
	forward := make([]bpf.Instruction, len(a.reversed))
	for i, in := range a.reversed {
		forward[len(forward)-1-i] = in
	}
	return bpf.Assemble(forward)
}
