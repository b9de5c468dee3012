// Package enforce runs a command under a policy: it chooses the backend, says in one line which and what that one
// promises, and collects what was denied. The backends are packages below: inkernel decides in BPF programs and needs
// rights, supervisor decides in this process and needs none.
package enforce
