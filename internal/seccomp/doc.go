// Package seccomp compiles filters for seccomp(2): what the kernel does about a system call, by its ABI and number and,
// where wanted, by its arguments in registers and the address it is made from, as a classic BPF program with a balanced
// tree over the numbers. [Filter.Evaluate] says the same without BPF: tests hold the two against each other.
package seccomp
