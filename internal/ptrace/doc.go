// Package ptrace runs a command, or seizes a process, under ptrace(2) and stops its threads at system calls: all of them,
// or those that a seccomp filter picks (SECCOMP_RET_TRACE). It needs no privileges. A [Handler] decides about each stop;
// it finds registers, memory and executable mappings of the thread that stopped as they were when the call was made.
//
// Everything else about the target stays as it is alone: signals keep their siginfo, group stops and job control work
// (PTRACE_SEIZE and PTRACE_LISTEN), threads, forks and execs are followed. What differs is what ptrace itself makes visible:
// no other tracer can attach.
//
// One thread, which is locked to its goroutine, makes all requests, since the kernel takes them from the thread that
// seized only. It moves to the processor of the thread that it waits for: waking a thread of another processor costs
// several times as much as all the rest of a stop.
package ptrace
