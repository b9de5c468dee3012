package supervisor

import (
	"golang.org/x/sys/unix"

	"bulkhead/internal/policy"
	"bulkhead/internal/ptrace"
	"bulkhead/internal/seccomp"
	"bulkhead/internal/syscalls"
)

// abis are those that a process of amd64 can use.
var abis = []syscalls.ABI{syscalls.AMD64, syscalls.I386, syscalls.X32}

// newFilter makes the filter for a target. One filter serves all program images of the policy, because a filter stays when
// a process executes another image: it lets pass what every compartment of every image may do. Everything else is traced,
// with the ABI as data, calls that no image may make among them: their verdict is certain, and the stop is there to report
// it.
func newFilter(p *policy.Policy) *seccomp.Filter {
	f := &seccomp.Filter{Default: seccomp.KillProcess, Defaults: map[syscalls.ABI]seccomp.Action{}}
	for _, abi := range abis {
		traced := seccomp.Trace(uint16(abi))
		f.Defaults[abi] = traced
		changes := ptrace.Changes(abi)
		for _, nr := range allowedToAll(p, abi) {
			rule := seccomp.Rule{ABI: abi, NR: nr, Action: seccomp.Allow}
			for _, test := range changes[nr] {
				rule.Cases = append(rule.Cases, seccomp.Case{Test: test, Action: traced})
			}
			for _, g := range guardsOf[policy.Number{ABI: abi, NR: nr}] {
				rule.Cases = append(rule.Cases, seccomp.Case{Test: g.test, Action: traced})
			}
			f.Rules = append(f.Rules, rule)
		}
	}
	return f
}

// allowedToAll lists the calls that every compartment of every image may make, but for those that execute an image.
func allowedToAll(p *policy.Policy, abi syscalls.ABI) []int {
	var rules []*policy.Rules
	for i := range p.Programs {
		if r, listed := p.Rules(p.Programs[i].Path); listed {
			rules = append(rules, r)
		}
	}
	if len(rules) == 0 {
		return nil
	}
	var out []int
next:
	for _, n := range rules[0].Numbers(policy.AllowedToAll) {
		if n.ABI != abi || ptrace.Executes(abi, n.NR) {
			continue
		}
		for _, r := range rules[1:] {
			if r.Class(n.ABI, n.NR) != policy.AllowedToAll {
				continue next
			}
		}
		out = append(out, n.NR)
	}
	return out
}

// A guard is a call that is not allowed whatever the policy says, because with it the target would get out of sight.
type guard struct {
	call   string
	test   seccomp.Test
	reason string
	remedy string
}

const readImpliesExec = 0x0400000 // READ_IMPLIES_EXEC

var guards = []guard{
	{"seccomp", seccomp.Argument(1, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER),
		"the supervisor: another supervisor's listener could let calls pass that this one has not seen",
		"use the kernel backend"},
	{"personality", seccomp.Argument(0, 1<<32-1, 1<<32-1), "", ""}, // only asks
	{"personality", seccomp.Argument(0, readImpliesExec, readImpliesExec),
		"the supervisor: with READ_IMPLIES_EXEC executable memory would come about unseen",
		"use the kernel backend"},
	{"prctl", seccomp.Argument(0, 1<<32-1, unix.PR_SET_DUMPABLE),
		"the supervisor: it cannot read a process that gives up being dumpable",
		"run bulkhead as root, or use the kernel backend"},
}

// guardsOf has the guards of each call.
var guardsOf = func() map[policy.Number][]guard {
	of := map[policy.Number][]guard{}
	for _, abi := range abis {
		for _, g := range guards {
			if nr, ok := syscalls.Number(abi, g.call); ok {
				at := policy.Number{ABI: abi, NR: nr}
				of[at] = append(of[at], g)
			}
		}
	}
	return of
}()

// guarded returns the guard that forbids a call, or nil.
func guarded(c *seccomp.Call) *guard {
	for _, g := range guardsOf[policy.Number{ABI: c.ABI, NR: int(c.NR)}] {
		if g.test.Holds(c) {
			if g.reason == "" || g.call == "prctl" && c.Args[1] == 1 {
				return nil
			}
			return &g
		}
	}
	return nil
}
