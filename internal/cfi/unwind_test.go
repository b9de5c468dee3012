package cfi

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The synthetic stack of these tests; code is at 0x1000 to 0x2000 with a rule for each 16 bytes.
const stackBase = 0x7000

// words makes a stack.
func words(w ...uint64) StackCopy {
	s := StackCopy{Base: stackBase}
	for _, v := range w {
		s.Data = binary.LittleEndian.AppendUint64(s.Data, v)
	}
	return s
}

// ruleTable gives rule i to the code at 0x1000 + 16*i.
func ruleTable(rules ...Rule) Resolver {
	b := newTableBuilder(0)
	for i, r := range rules {
		b.span(span{uint64(i) * 16, uint64(i)*16 + 16, r})
	}
	t := b.finish()
	return func(addr uint64) (*Table, uint64, bool) {
		switch {
		case addr >= 0x1000 && addr < 0x2000:
			return t, addr - 0x1000, true
		case addr >= 0x3000 && addr < 0x4000: // code without a table
			return nil, 0, true
		}
		return nil, 0, false
	}
}

// rspRule is CFA = rsp + offset with both registers untouched.
func rspRule(offset int32) Rule {
	return Rule{CFA: KindRegister, Reg: RegRSP, CFAOffset: offset, RBPOffset: Same, RBXOffset: Same, RAOffset: -8}
}

func TestUnwind(t *testing.T) {
	end := Rule{CFA: KindEnd}
	regs := func(ip uint64, set map[int]uint64) Regs {
		r := Regs{IP: ip}
		r.GPR[RegRSP] = stackBase
		for i, v := range set {
			r.GPR[i] = v
		}
		return r
	}
	inCall := regs(0x1010, nil)
	inCall.InSyscall = true
	vfork := regs(0x1002, map[int]uint64{5: 0x1015})
	vfork.InSyscall = true

	tests := []struct {
		name   string
		regs   Regs
		stack  StackCopy
		rules  []Rule
		limit  int
		want   []Frame
		broken Break
	}{
		{
			name: "return addresses are looked up one below", regs: regs(0x1000, nil),
			stack: words(0x1010, 0x1020, 0x1030), rules: []Rule{rspRule(8), rspRule(8), end},
			// 0x1010-1 is still in rule 0, 0x1020-1 in rule 1, 0x1030-1 in rule 2
			want: []Frame{
				{IP: 0x1000, PC: 0x1000, SP: stackBase}, {IP: 0x1010, PC: 0x100f, SP: stackBase + 8},
				{IP: 0x1020, PC: 0x101f, SP: stackBase + 16}, {IP: 0x1030, PC: 0x102f, SP: stackBase + 24},
			},
		},
		{
			name: "in a system call frame 0 is looked up one below", regs: inCall, stack: words(0x1020), rules: []Rule{end, rspRule(8)},
			want: []Frame{{IP: 0x1010, PC: 0x100f, SP: stackBase}},
		},
		{
			name: "vfork's return address is in rdi", regs: vfork, stack: words(1, 2),
			rules: []Rule{{CFA: KindRegister, Reg: RegRSP, Flags: RAInRegister, RAOffset: 5, RBPOffset: Same, RBXOffset: Same}, end},
			want:  []Frame{{IP: 0x1002, PC: 0x1001, SP: stackBase}, {IP: 0x1015, PC: 0x1014, SP: stackBase}},
		},
		{
			name: "rbp is read from where a callee saved it", regs: regs(0x1000, map[int]uint64{RegRBP: 1}),
			stack: words(stackBase+32, 0x1015, 0, 0, 0x3333, 0x1025),
			rules: []Rule{
				{CFA: KindRegister, Reg: RegRSP, CFAOffset: 16, RBPOffset: -16, RBXOffset: Same, RAOffset: -8},
				{CFA: KindRegister, Reg: RegRBP, CFAOffset: 16, RBPOffset: -16, RBXOffset: Same, RAOffset: -8},
				end,
			},
			want: []Frame{
				{IP: 0x1000, PC: 0x1000, SP: stackBase}, {IP: 0x1015, PC: 0x1014, SP: stackBase + 16},
				{IP: 0x1025, PC: 0x1024, SP: stackBase + 48},
			},
		},
		{
			name: "a rule that needs a lost register breaks", regs: regs(0x1000, nil), stack: words(0x1015, 0),
			rules: []Rule{
				{CFA: KindRegister, Reg: RegRSP, CFAOffset: 8, RBPOffset: Undefined, RBXOffset: Same, RAOffset: -8},
				{CFA: KindRegister, Reg: RegRBP, CFAOffset: 16, RBPOffset: -16, RBXOffset: Same, RAOffset: -8},
			},
			want:   []Frame{{IP: 0x1000, PC: 0x1000, SP: stackBase}, {IP: 0x1015, PC: 0x1014, SP: stackBase + 8}},
			broken: BreakRegister,
		},
		{
			name: "r10 is known in frame 0 only", regs: regs(0x1000, map[int]uint64{10: stackBase + 16}),
			stack: words(0, 0x1005),
			rules: []Rule{{CFA: KindRegister, Reg: 10, RBPOffset: Same, RBXOffset: Same, RAOffset: -8}},
			want: []Frame{
				{IP: 0x1000, PC: 0x1000, SP: stackBase}, {IP: 0x1005, PC: 0x1004, SP: stackBase + 16},
			},
			broken: BreakRegister,
		},
		{
			name: "DRAP: the CFA is in memory and rbp at rbp", regs: regs(0x1000, map[int]uint64{RegRBP: stackBase + 16, RegRBX: 7}),
			stack: words(9, stackBase+48, stackBase+64, 0, 0, 0x1015, 0, 0, 0, 0x1025),
			rules: []Rule{
				{CFA: KindDeref, Reg: RegRBP, CFAOffset: -8, Flags: RBPAtRBP, RBPOffset: 0, RBXOffset: Same, RAOffset: -8},
				{CFA: KindRegister, Reg: RegRBP, CFAOffset: 16, RBPOffset: -16, RBXOffset: Same, RAOffset: -8},
				end,
			},
			want: []Frame{
				{IP: 0x1000, PC: 0x1000, SP: stackBase}, {IP: 0x1015, PC: 0x1014, SP: stackBase + 48},
				{IP: 0x1025, PC: 0x1024, SP: stackBase + 80},
			},
		},
		{
			name: "PLT entry before its push", regs: regs(0x100a, nil), stack: words(0x1015, 0x1025),
			rules: []Rule{{CFA: KindPLT, Reg: RegRSP, CFAOffset: 8, CFAExtra: 11, RBPOffset: Same, RBXOffset: Same, RAOffset: -8}, end, end},
			want:  []Frame{{IP: 0x100a, PC: 0x100a, SP: stackBase}, {IP: 0x1015, PC: 0x1014, SP: stackBase + 8}},
		},
		{
			name: "PLT entry behind its push", regs: regs(0x100b, nil), stack: words(0x1015, 0x1025),
			rules: []Rule{{CFA: KindPLT, Reg: RegRSP, CFAOffset: 8, CFAExtra: 11, RBPOffset: Same, RBXOffset: Same, RAOffset: -8}, end, end},
			want:  []Frame{{IP: 0x100b, PC: 0x100b, SP: stackBase}, {IP: 0x1025, PC: 0x1024, SP: stackBase + 16}},
		},
		{
			name: "signal frame: the interrupted ip is exact", regs: regs(0x1000, nil),
			stack: func() StackCopy {
				s := words(make([]uint64, 40)...)
				at := func(offset int, v uint64) { binary.LittleEndian.PutUint64(s.Data[offset:], v) }
				at(0, 0x1011) // the handler returns into the trampoline
				at(8+160, stackBase+280)
				at(8+168, 0x1020)
				at(8+120, 0xbb)
				at(280, 0x1031)
				return s
			}(),
			rules: []Rule{rspRule(8), {CFA: KindSignal}, rspRule(8), end},
			want: []Frame{
				{IP: 0x1000, PC: 0x1000, SP: stackBase}, {IP: 0x1011, PC: 0x1010, SP: stackBase + 8},
				{IP: 0x1020, PC: 0x1020, SP: stackBase + 280}, {IP: 0x1031, PC: 0x1030, SP: stackBase + 288},
			},
		},
		{
			name: "signal at address zero: a call through a null pointer", regs: regs(0x1000, nil),
			stack: words(append(make([]uint64, 20), stackBase+176, 0)...), rules: []Rule{{CFA: KindSignal}},
			want: []Frame{{IP: 0x1000, PC: 0x1000, SP: stackBase}}, broken: BreakAddress,
		},
		{
			name: "without rows the frame pointer leads on", regs: regs(0x3000, map[int]uint64{RegRBP: stackBase + 16}),
			stack: words(1, 2, 0, 0x1005), rules: []Rule{end},
			want: []Frame{{IP: 0x3000, PC: 0x3000, SP: stackBase}, {IP: 0x1005, PC: 0x1004, SP: stackBase + 32, Guessed: true}},
		},
		{
			name: "a zero frame pointer ends the stack", regs: regs(0x3000, map[int]uint64{RegRBP: stackBase}),
			stack: words(0, 0x3005),
			want:  []Frame{{IP: 0x3000, PC: 0x3000, SP: stackBase}, {IP: 0x3005, PC: 0x3004, SP: stackBase + 16, Guessed: true}},
		},
		{
			name: "a frame pointer below the stack", regs: regs(0x3000, map[int]uint64{RegRBP: stackBase - 16}), stack: words(0),
			want: []Frame{{IP: 0x3000, PC: 0x3000, SP: stackBase}}, broken: BreakFramePointer,
		},
		{
			name: "a zero return address ends the stack", regs: regs(0x1000, nil), stack: words(0), rules: []Rule{rspRule(8)},
			want: []Frame{{IP: 0x1000, PC: 0x1000, SP: stackBase}},
		},
		{
			name: "a return address into data", regs: regs(0x1000, nil), stack: words(0x9000), rules: []Rule{rspRule(8)},
			want: []Frame{{IP: 0x1000, PC: 0x1000, SP: stackBase}}, broken: BreakAddress,
		},
		{
			name: "unreadable stack", regs: regs(0x1000, nil), stack: words(), rules: []Rule{rspRule(8)},
			want: []Frame{{IP: 0x1000, PC: 0x1000, SP: stackBase}}, broken: BreakMemory,
		},
		{
			name: "a caller below its callee", regs: regs(0x1000, map[int]uint64{RegRBP: stackBase - 64}), stack: words(0),
			rules: []Rule{{CFA: KindRegister, Reg: RegRBP, CFAOffset: 16, RBPOffset: -16, RBXOffset: Same, RAOffset: -8}},
			want:  []Frame{{IP: 0x1000, PC: 0x1000, SP: stackBase}}, broken: BreakDirection,
		},
		{
			name: "a switch of stacks may go down", regs: Regs{IP: 0x1000, GPR: [16]uint64{RegRSP: stackBase + 64, RegRBP: stackBase}},
			stack: words(0, 0x1015),
			rules: []Rule{{CFA: KindRegister, Reg: RegRBP, CFAOffset: 16, Flags: StackSwitch, RBPOffset: -16, RBXOffset: Undefined, RAOffset: -8}, end},
			want:  []Frame{{IP: 0x1000, PC: 0x1000, SP: stackBase + 64}, {IP: 0x1015, PC: 0x1014, SP: stackBase + 16}},
		},
		{
			name: "too deep", regs: regs(0x1000, nil), stack: words(0x1001, 0x1001, 0x1001, 0x1001), rules: []Rule{rspRule(8)}, limit: 2,
			want: []Frame{{IP: 0x1000, PC: 0x1000, SP: stackBase}, {IP: 0x1001, PC: 0x1000, SP: stackBase + 8}}, broken: BreakDepth,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.limit == 0 {
				test.limit = 10
			}
			got, err := Unwind(test.regs, test.stack, ruleTable(test.rules...), test.limit)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			var broken *WalkError
			if errors.As(err, &broken) != (test.broken != 0) || broken != nil && broken.Why != test.broken {
				t.Errorf("error %v, want %v", err, test.broken)
			}
		})
	}
}

// BenchmarkUnwind walks ten frames of a stack copy.
func BenchmarkUnwind(b *testing.B) {
	stack := words(0x1001, 0x1001, 0x1001, 0x1001, 0x1001, 0x1001, 0x1001, 0x1001, 0x1001, 0)
	resolve := ruleTable(rspRule(8))
	regs := Regs{IP: 0x1000, GPR: [16]uint64{RegRSP: stackBase}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Unwind(regs, stack, resolve, 32); err != nil {
			b.Fatal(err)
		}
	}
}
