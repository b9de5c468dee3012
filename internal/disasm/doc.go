// Package disasm decodes amd64 machine code, one instruction at a time, for
// static analysis and for unwinding. It follows the Intel 64 and IA-32
// Architectures Software Developer's Manual (SDM), volume 2 (chapter 2 for
// prefixes, ModRM, VEX and EVEX; appendix A for the opcode maps) and, for the
// vendor differences, the AMD64 Architecture Programmer's Manual, volume 3.
//
// There are two depths. [Scan] gives the [Shape] of an instruction: its
// length, what it does to the flow of control, its memory operand, its
// immediate and the general registers it reads and writes. It allocates
// nothing and is what a sweep over a whole text section should use. [Decode]
// adds the mnemonic and the operands, which come from golang.org/x/arch's
// x86asm; that allocates for memory and immediate operands, so it is meant
// for the few instructions whose meaning matters.
//
// The length never comes from x86asm. That decoder returns wrong lengths with
// a nil error (vzeroupper), an Op of 0 with a nil error (endbr64, rdsspq,
// adcx), displacements that are not sign-extended and VEX operands without
// their rip base. Decode trusts it only where both decoders agree; elsewhere
// the result has the Op [Opaque]: an instruction that is known to be valid,
// not to branch and not to touch rsp otherwise than Writes says, and about
// which nothing more is claimed. What is not known at all is an error.
//
// Scan knows which opcodes exist with which mandatory prefix and kind of
// operand. It does not look at VEX.W, VEX.L or ModRM.reg of vector
// instructions and at a few reserved system encodings, none of which changes
// a length: such bytes would raise #UD and are taken for instructions. Of the
// extensions that Intel has announced, APX is unknown, and so is the part of
// AVX10.2 that lives in the EVEX maps 5 and 6.
//
// The tests compare lengths with objdump's, over every form of every opcode
// and over whole libraries, and the register sets with what the processor
// does, one instruction at a time under ptrace.
package disasm
