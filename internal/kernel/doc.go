// Package kernel probes what this kernel lets this process do, and says what
// that means for tracing and enforcing. A probe does the thing itself where that
// is harmless: it loads a program of a few instructions, installs a seccomp
// filter that allows everything on a thread of its own, or stops a child that
// never runs an instruction. Versions and configuration are only quoted as
// reasons, since distributions backport and hosts forbid. A program that could
// deny or kill is loaded for the verifier's word and never attached; the one LSM
// program that is attached returns 0, which allows. The references are bpf(2),
// seccomp(2), ptrace(2), perf_event_open(2), capabilities(7) and
// kernel_lockdown(7).
package kernel
