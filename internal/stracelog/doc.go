// Package stracelog makes an attribution document of the log that strace -f -k
// writes: each system call with the stack that it was made on. It serves
// machines where nobody may load BPF programs.
//
// The format is strace(1)'s own, of releases 5 and 6, from -o FILE or from
// standard error. The log decides what can be known:
//
//   - The first execve is made by strace itself and is not counted.
//   - Names of functions come from exported symbols, and code behind the last
//     one is charged to it: libc's static functions appear under their
//     neighbour's name. Objects are right, vias are a hint.
//   - There are no build ids.
//   - A log written by -o does not say that a call entered as int 0x80 or x32;
//     strace's standard error does.
//   - A stack of C library frames only is whole in the loader and in threads of
//     glibc. Elsewhere the walk has ended early: musl has no unwind tables. Such
//     calls are unattributed.
//   - strace does not walk the stacks of such calls, nor of calls that a signal
//     ended for good. They are counted as unattributed.
package stracelog
