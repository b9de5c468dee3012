// Package inkernel enforces a policy with the BPF programs of package bpf: the stack walk and the verdict happen in the
// kernel, at the entry of a system call.
//
// Three things work together:
//
//   - the program at sys_enter, which judges every call of the tasks that it has marked: see enforce.bpf.c;
//   - the BPF LSM hooks, which deny a judged call before it takes effect, where the kernel runs them: see hooks.go;
//   - a seccomp filter, which refuses what no compartment of any image may do, and stops a thread for a moment before it
//     maps a file executable or executes another image, so that the rows of new code are loaded before the code can run.
//
// All code is unknown, and may do what [unknown] may do, until it has been loaded and bound to its compartment.
package inkernel
