// Package trace runs a command, or attaches to a process, and attributes every system call that it makes to the code that
// caused it. The kernel part (internal/bpf) walks the stacks and counts; this package gives it the unwind rows of the
// files that the target maps, walks the stacks that came before their rows did, and makes the attribution document.
package trace
