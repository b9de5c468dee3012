package cfi

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"bulkhead/internal/disasm"
	"bulkhead/internal/objfile"
)

// goCode makes rules for Go functions from the pc-to-sp deltas in the function table (cmd/link's pclntab).
//
// A function's CFA is SP + delta + 8: that is exact at each instruction. The caller's rbp is at CFA - 16 in functions that
// begin with PUSHQ BP; MOVQ SP, BP, which the assembler (cmd/internal/obj/x86, preprocess) puts into all functions
// but those marked NOFRAME and frameless leaves. Up to Go 1.20 it was SUBQ $frame, SP; MOVQ BP, frame-8(SP), with the
// same place. rbx is not kept by Go code.
//
// Functions that switch to the stack of another goroutine:
//
//   - systemstack, asmcgocall, cgocallback and the vDSO callers of package runtime set SP freely (flag SPWRITE), but push
//     rbp first and leave it alone. So CFA = rbp + 16 holds on both sides of the switch, and the walk goes on where the
//     function was called: on the goroutine's stack from the thread's (g0) stack, and in C from cgocallback.
//   - clone continues in the child on the new thread's stack: from the instruction that sets SP on the walk ends. (The two
//     instructions before that, which no system call is made from, read as the parent's.)
//   - A signal handler lets the code that it interrupted call sigpanic or asyncPreempt: the caller's address is exact.
//   - mcall and morestack zero rbp, since the goroutine may go on in another thread: the scheduler's work is not the
//     goroutine's. There the walk ends.
//   - goexit, mstart, rt0_go (flag TOPFRAME) and _rt0_* are the outermost functions of goroutines, threads and the
//     program.
type goCode struct {
	table  *objfile.GoTable
	spans  []span
	losses []Loss
	deltas []objfile.SPDelta
	// foreign are functions of C, which the table lists and knows nothing about: those of runtime/cgo where Go's own linker
	// has linked them, without their .eh_frame.
	foreign []addressRange
	// interrupted says that the function is one of those.
	interrupted bool
}

// fill appends the rules for the Go functions that begin in a gap.
func (c *goCode) fill(g gap) {
	end := g.addr + uint64(len(g.code))
	funcs := c.table.Funcs
	i, _ := slices.BinarySearchFunc(funcs, g.addr, func(f objfile.GoFunc, addr uint64) int {
		if f.End <= addr {
			return -1
		}
		return 1
	})
	for ; i < len(funcs) && funcs[i].Entry < end; i++ {
		if f := &funcs[i]; f.Entry >= g.addr {
			c.function(f, &g)
		}
	}
}

// outermost lists functions that end a walk but lack the flag: those that give up the stack they were called on, and
// what the kernel enters.
var outermost = map[string]bool{
	"runtime.mcall": true, "runtime.morestack": true, "runtime.goexit": true, "runtime.mstart": true,
	"runtime.rt0_go": true, "_rt0_amd64": true,
}

// interrupted lists functions that signal handlers let the interrupted code call, as it seems to these.
var interrupted = map[string]bool{
	"runtime.asyncPreempt": true, "runtime.sigpanic": true, "runtime.sigpanic0": true, "runtime.debugCallV2": true,
}

// switching lists functions that set SP freely, for tables of Go 1.16 and before, which have no flags.
var switching = map[string]bool{
	"runtime.systemstack": true, "runtime.asmcgocall": true, "runtime.cgocallback": true, "runtime.cgocallback_gofunc": true,
}

// baseName drops the ABI suffix of assembly functions and their wrappers.
func baseName(name string) string {
	name = strings.TrimSuffix(name, ".abi0")
	return strings.TrimSuffix(name, ".abiinternal")
}

// plainGoRule is the rule of a function that has not moved SP.
var plainGoRule = Rule{CFA: KindRegister, Reg: RegRSP, CFAOffset: 8, RBPOffset: Same, RBXOffset: Undefined, RAOffset: -8}

func (c *goCode) function(f *objfile.GoFunc, g *gap) {
	name := baseName(f.Name)
	// The kernel calls sigtramp with a trampoline as its return address. Go's own traceback stops there, ours need not.
	top := f.Flags&objfile.GoTopFrame != 0 && name != "runtime.sigtramp"
	if top || outermost[name] || strings.HasPrefix(name, "_rt0_amd64_linux") {
		c.add(g, f.Entry, f.End, Rule{CFA: KindEnd})
		return
	}
	if name == "runtime.clone" {
		if at := setsSP(g, f); at != 0 {
			c.add(g, f.Entry, at, plainGoRule)
			c.add(g, at, f.End, Rule{CFA: KindEnd})
			return
		}
	}
	deltas, err := c.table.AppendSPDeltas(c.deltas[:0], f)
	c.deltas = deltas
	if err == nil && len(deltas) == 0 {
		c.foreign = append(c.foreign, addressRange{f.Entry, f.End})
		return
	}
	if err != nil {
		c.lose(g, f.Entry, f.End, ReasonProgram)
		return
	}
	saved := savesRBP(g, f, deltas)
	c.interrupted = interrupted[name]
	free := switching[name] || f.Flags&objfile.GoSPWrite != 0 && saved != 0
	for i, d := range deltas {
		end := f.End
		if i+1 < len(deltas) {
			end = deltas[i+1].PC
		}
		c.depth(g, d, end, saved, free)
	}
}

// depth appends the rules for code with one depth of the stack. saved is the address from which on rbp is saved, 0 for
// never; free says that the function sets SP freely.
func (c *goCode) depth(g *gap, d objfile.SPDelta, end, saved uint64, free bool) {
	r := plainGoRule
	r.CFAOffset = d.Delta + 8
	if c.interrupted {
		r.Flags = Interrupted
	}
	pushed := saved != 0 && d.Delta >= 8
	if pushed && d.PC < saved {
		c.add(g, d.PC, min(saved, end), r)
		d.PC = saved
	}
	if pushed {
		r.RBPOffset = -16
	}
	// Up to Go 1.16 systemstack and its like do not push rbp: then it is the caller's, and the walk skips one function
	// of package runtime.
	if free && (pushed || saved == 0) {
		r.Reg, r.CFAOffset, r.RBPOffset, r.Flags = RegRBP, 16, -16, StackSwitch
	}
	c.add(g, d.PC, end, r)
}

// savesRBP returns the address from which on a function has rbp saved at CFA - 16, or 0 when it does not save it.
func savesRBP(g *gap, f *objfile.GoFunc, deltas []objfile.SPDelta) uint64 {
	i := slices.IndexFunc(deltas, func(d objfile.SPDelta) bool { return d.Delta != 0 })
	if i < 0 || !g.holds(f.Entry) || !g.holds(deltas[i].PC) {
		return 0
	}
	at := deltas[i].PC - g.addr
	delta := deltas[i].Delta
	if delta == 8 && at > 0 && g.code[at-1] == 0x55 { // push %rbp
		return deltas[i].PC
	}
	code := g.code[at:]
	switch { // mov %rbp,delta-8(%rsp)
	case bytes.HasPrefix(code, []byte{0x48, 0x89, 0x6c, 0x24}) && len(code) > 4 && int32(int8(code[4])) == delta-8:
		return deltas[i].PC + 5
	case bytes.HasPrefix(code, []byte{0x48, 0x89, 0xac, 0x24}) && len(code) > 7 && int32(binary.LittleEndian.Uint32(code[4:])) == delta-8:
		return deltas[i].PC + 8
	}
	return 0
}

// setsSP returns the address of the first mov register,%rsp of a function, or 0.
func setsSP(g *gap, f *objfile.GoFunc) uint64 {
	if !g.holds(f.Entry) {
		return 0
	}
	for pos := f.Entry; pos < f.End && g.holds(pos); {
		in, err := disasm.Scan(g.code[pos-g.addr:])
		if err != nil {
			return 0
		}
		if op := in.Opcode(); (op == opMovStore || op == opMovLoad) && in.Writes().Has(disasm.RSP) {
			return pos
		}
		pos += uint64(in.Size())
	}
	return 0
}

func (c *goCode) add(g *gap, begin, end uint64, r Rule) {
	begin, end = max(begin, g.addr), min(end, g.addr+uint64(len(g.code)))
	if begin >= end {
		return
	}
	begin, end = begin-g.addr+g.offset, end-g.addr+g.offset
	if n := len(c.spans); n > 0 && c.spans[n-1].end == begin && c.spans[n-1].rule == r {
		c.spans[n-1].end = end
		return
	}
	c.spans = append(c.spans, span{begin, end, r})
}

func (c *goCode) lose(g *gap, begin, end uint64, why Reason) {
	begin, end = max(begin, g.addr), min(end, g.addr+uint64(len(g.code)))
	if begin < end {
		c.losses = append(c.losses, Loss{begin - g.addr + g.offset, end - g.addr + g.offset, why})
	}
}
