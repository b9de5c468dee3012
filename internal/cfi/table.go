package cfi

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sort"
)

// CFAKind says how a rule finds the canonical frame address: the caller's stack pointer once the call has returned.
type CFAKind uint8

const (
	// KindNone: nothing is known here. A walk goes on by frame pointer or ends.
	KindNone CFAKind = iota
	// KindEnd: the outermost frame of a thread. A walk ends here, complete.
	KindEnd
	// KindRegister: CFA = Reg + CFAOffset.
	KindRegister
	// KindDeref: CFA = *(Reg + CFAOffset) + CFAExtra. Compilers write it for functions that realign the stack,
	// perlasm for functions that keep the old stack pointer in memory.
	KindDeref
	// KindPLT: CFA = rsp + CFAOffset, and 8 more when ip & 15 >= CFAExtra, that is after the entry's push.
	KindPLT
	// KindSignal: the return trampoline of a signal handler. The stack pointer points at the kernel's ucontext:
	// CFA = *(rsp+160), and the interrupted ip, rbp and rbx are at rsp+168, rsp+120 and rsp+128. All other fields
	// of the rule are zero. The caller is interrupted code: its ip is exact and not a return address.
	KindSignal
)

var kindNames = [...]string{"none", "end", "register", "deref", "plt", "signal"}

func (k CFAKind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("CFAKind(%d)", uint8(k))
}

// DWARF register numbers of the x86-64 psABI, figure 3.36.
const (
	RegRAX = 0
	RegRBX = 3
	RegRBP = 6
	RegRSP = 7
	RegRIP = 16
)

// Where a caller's RBP or RBX is, if not at CFA + offset.
const (
	// Same: the callee has not touched the register, it still holds the caller's value.
	Same int32 = math.MinInt32
	// Undefined: the caller's value cannot be found.
	Undefined int32 = math.MinInt32 + 1
)

// Flags changes the base of a rule's offsets.
type Flags uint8

const (
	// RBPAtRBP: the caller's RBP is at rbp + RBPOffset instead of CFA + RBPOffset, with this frame's rbp.
	RBPAtRBP Flags = 1 << iota
	// RBXAtRBP: the same for RBX, at rbp + RBXOffset.
	RBXAtRBP
	// RAInRegister: the return address is not in memory but in the DWARF register RAOffset, which only frame 0 knows
	// (glibc's vfork keeps it in rdi around its system call).
	RAInRegister
	// StackSwitch: the caller is on another stack, so that its CFA may be below this frame (Go's systemstack).
	StackSwitch
	// Interrupted: the caller did not call, a signal handler has made the frame: its ip is exact (Go's sigpanic).
	Interrupted
)

// Rule says how to get from a frame to its caller. Its 24 bytes are the BPF map's value: keep the layout.
type Rule struct {
	CFA       CFAKind
	Reg       uint8 // DWARF number; above frame 0 only rsp, rbp and rbx are known
	Flags     Flags
	_         uint8
	CFAOffset int32
	CFAExtra  int32 // KindDeref: added after the load. KindPLT: lowest ip & 15 with 8 more bytes pushed
	RBPOffset int32 // caller's RBP is saved at CFA + RBPOffset, or Same, or Undefined
	RBXOffset int32 // caller's RBX, likewise
	RAOffset  int32 // return address is saved at CFA + RAOffset, -8 in ordinary code
}

// Row holds from its Offset up to the next row's.
type Row struct {
	Offset uint32 // file offset of code
	Rule   uint16 // index into Table.Rules
	Region uint16 // number of the region within the object; 0 is all that is in no other
}

// Loss is a range of code that the table says nothing about although the file contains code or rules there.
type Loss struct {
	Begin, End uint64 // file offsets
	Reason     Reason
}

// Reason is why a [Loss] happened.
type Reason uint8

const (
	// ReasonExpression: a DWARF expression of no known shape.
	ReasonExpression Reason = iota + 1
	// ReasonProgram: a call frame program that does not decode.
	ReasonProgram
	// ReasonEncoding: a pointer encoding that is not supported (indirect, text- or function-relative).
	ReasonEncoding
	// ReasonOverlap: two descriptions of the same code; the first was taken.
	ReasonOverlap
	// ReasonRegister: the stack pointer or the return address lives in a register that is not tracked.
	ReasonRegister
	// ReasonRules: more distinct rules than a row can index.
	ReasonRules
	// ReasonNoInformation: code without any description, and its data flow does not give one.
	ReasonNoInformation
	// ReasonNotCode: bytes between functions that do not decode as code, like the constants of OpenSSL's assembly.
	ReasonNotCode
)

var reasonNames = [...]string{
	ReasonExpression:    "unknown DWARF expression",
	ReasonProgram:       "malformed call frame program",
	ReasonEncoding:      "unsupported pointer encoding",
	ReasonOverlap:       "overlapping descriptions",
	ReasonRegister:      "value in an untracked register",
	ReasonRules:         "too many distinct rules",
	ReasonNoInformation: "code without call frame information",
	ReasonNotCode:       "bytes that do not decode as code",
}

func (r Reason) String() string {
	if r > 0 && int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return fmt.Sprintf("Reason(%d)", uint8(r))
}

// Table is the unwind information of one file. Rows are sorted by offset and adjacent rows differ in their rule or
// region. Rules[0] is always KindNone; it holds before the first row.
type Table struct {
	Rows   []Row
	Rules  []Rule
	Losses []Loss
}

// Lookup returns the rule for the code at a file offset.
func (t *Table) Lookup(offset uint64) Rule {
	row := t.row(offset)
	if row == nil {
		return Rule{}
	}
	return t.Rules[row.Rule]
}

// Region returns the number of the region that the code at a file offset is in.
func (t *Table) Region(offset uint64) uint16 {
	row := t.row(offset)
	if row == nil {
		return 0
	}
	return row.Region
}

func (t *Table) row(offset uint64) *Row {
	if offset > math.MaxUint32 {
		return nil
	}
	i := sort.Search(len(t.Rows), func(i int) bool { return uint64(t.Rows[i].Offset) > offset })
	if i == 0 {
		return nil
	}
	return &t.Rows[i-1]
}

// maxLosses bounds the list that a hostile file can cause; the last entry then spans the rest.
const maxLosses = 4096

// tableBuilder appends rules for ascending ranges of code.
type tableBuilder struct {
	Table
	index map[Rule]uint16
	end   uint64 // where the last range ends
}

func newTableBuilder(rows int) *tableBuilder {
	b := &tableBuilder{index: make(map[Rule]uint16)}
	b.Rows = make([]Row, 0, rows)
	b.intern(Rule{})
	return b
}

// intern returns the index of a rule, 0 (KindNone) when there are too many.
func (b *tableBuilder) intern(r Rule) (uint16, bool) {
	if i, ok := b.index[r]; ok {
		return i, true
	}
	if len(b.Rules) > math.MaxUint16 {
		return 0, false
	}
	i := uint16(len(b.Rules))
	b.Rules = append(b.Rules, r)
	b.index[r] = i
	return i, true
}

// row lets a rule hold from offset on. Offsets must not descend: one before the last row is moved up to it.
func (b *tableBuilder) row(offset uint64, rule uint16) {
	if offset > math.MaxUint32 {
		return
	}
	n := len(b.Rows)
	if n > 0 && uint64(b.Rows[n-1].Offset) >= offset {
		n--
		offset = uint64(b.Rows[n].Offset)
	}
	b.Rows = b.Rows[:n]
	if n > 0 && b.Rows[n-1].Rule == rule || n == 0 && rule == 0 {
		return
	}
	b.Rows = append(b.Rows, Row{Offset: uint32(offset), Rule: rule})
}

// begin opens a range of code: what lies between it and the range before is not described.
func (b *tableBuilder) begin(offset uint64) {
	if offset > b.end {
		b.row(b.end, 0)
	}
}

// finish closes the last range and returns the table.
func (b *tableBuilder) finish() *Table {
	b.row(b.end, 0)
	return &b.Table
}

func (b *tableBuilder) lose(begin, end uint64, why Reason) {
	n := len(b.Losses)
	if n > 0 && b.Losses[n-1].Reason == why && b.Losses[n-1].End == begin {
		b.Losses[n-1].End = end
		return
	}
	if n == maxLosses {
		b.Losses[n-1].End = max(b.Losses[n-1].End, end)
		return
	}
	b.Losses = append(b.Losses, Loss{begin, end, why})
}

// addLosses merges losses found elsewhere into the list.
func (t *Table) addLosses(more []Loss) {
	t.Losses = append(t.Losses, more...)
	slices.SortFunc(t.Losses, func(a, b Loss) int { return cmp.Compare(a.Begin, b.Begin) })
	if n := len(t.Losses); n > maxLosses {
		for _, l := range t.Losses[maxLosses:] {
			t.Losses[maxLosses-1].End = max(t.Losses[maxLosses-1].End, l.End)
		}
		t.Losses = t.Losses[:maxLosses:maxLosses]
	}
}
