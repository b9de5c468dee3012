// Package analysis finds out which system calls each compartment of a program
// can cause, from its ELF files alone. Every object is summarised by itself
// ([Summary]): its functions, what they call and with which constants, whose
// addresses they let escape, where they enter the kernel. Summaries are then
// linked as ld.so(8) would link the objects, and the parts that the program can
// reach are found by a fixed point over calls and escaped addresses. The calling
// convention, relocations and unwind tables are those of the System V ABI for
// AMD64. docs/analysis.md argues why the result is a superset of what can
// happen, and where that rests on an assumption.
package analysis
