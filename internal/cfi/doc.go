// Package cfi turns call frame information into compact unwind rows and walks user stacks with them.
//
// The input is what the x86-64 psABI (chapter 3.7) and the LSB put into .eh_frame: DWARF 5 §6.4 programs with the
// GNU extensions. Go's own code, which has no .eh_frame, is described from the pc-to-sp tables of its pclntab, and
// machine code with neither (musl, hand-written assembly) from the data flow of its stack pointer. The output is one
// [Table] per file, keyed by file offset, small enough for a BPF array map: the in-kernel walker and [Unwinder]
// follow the same rules, step by step, and the latter is the specification of the former.
package cfi
