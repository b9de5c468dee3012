// Package bpf holds the kernel part: the C programs, their shared headers, the
// objects that clang made of them, and what it takes to load, feed and read
// them. The programs follow the CO-RE rules of the kernel's BPF documentation
// (Documentation/bpf) and run on Linux 5.17 and later.
//
// To change a program, edit the C and run go generate; the objects are checked
// in so that building and running need no compiler.
package bpf

//go:generate sh generate.sh
