// Package supervisor enforces a policy without privileges. A seccomp filter made from the policy lets pass what every
// compartment may do; all else stops the thread for this process (SECCOMP_RET_TRACE), which walks the stack with the
// unwind rows of the mapped files, as the kernel backend does, finds the origin, and lets the call go on, or returns its
// error in its place, before any effect.
//
// Nothing behind a pointer is part of a decision: only registers, the stack's return addresses, and the mappings, which
// cannot change meanwhile (ptrace.Space). The one exception is politeness: the path that execve(2) is given is read to
// refuse an image that the policy does not list with an error. What counts is the file that the kernel has opened in the
// end; the process is killed before its first instruction if that one is not listed.
package supervisor
