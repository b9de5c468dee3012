package seccomp

import (
	"cmp"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"bulkhead/internal/syscalls"
)

// Action is what the kernel does with a system call: a SECCOMP_RET_* value and its data.
type Action uint32

// The actions, in the kernel's order of precedence where several filters speak.
const (
	KillProcess Action = 0x80000000 // SECCOMP_RET_KILL_PROCESS, Linux 4.14
	Notify      Action = 0x7fc00000 // SECCOMP_RET_USER_NOTIF, Linux 5.0: the call waits for the filter's listener
	Allow       Action = 0x7fff0000 // SECCOMP_RET_ALLOW
)

// Errno fails the call.
func Errno(e unix.Errno) Action { return 0x00050000 | Action(e)&dataMask }

// Trace stops the thread for its tracer, which reads data with PTRACE_GETEVENTMSG. Without a tracer the call fails with
// ENOSYS.
func Trace(data uint16) Action { return 0x7ff00000 | Action(data) }

const dataMask = 0xffff // SECCOMP_RET_DATA

func (a Action) String() string {
	data := uint16(a & dataMask)
	switch a &^ dataMask {
	case KillProcess:
		return "kill"
	case Notify:
		return "notify"
	case Allow:
		return "allow"
	case Trace(0):
		return fmt.Sprintf("trace %#x", data)
	case Errno(0):
		return fmt.Sprintf("errno %d", data)
	}
	return fmt.Sprintf("action %#x", uint32(a))
}

// Call is struct seccomp_data: a system call as a filter sees it.
type Call struct {
	ABI  syscalls.ABI
	NR   uint32 // with [syscalls.X32Bit] for X32
	IP   uint64 // the address after the system call instruction
	Args [6]uint64
}

// Filter is what a program is compiled from.
type Filter struct {
	// Default is for the numbers that no rule names, and for calls of ABIs that the machine does not have.
	Default Action
	// Defaults, where they have an ABI, are for the numbers of that ABI that no rule names.
	Defaults map[syscalls.ABI]Action
	Rules    []Rule // at most one for each call
}

func (f *Filter) defaultOf(abi syscalls.ABI) Action {
	if action, ok := f.Defaults[abi]; ok {
		return action
	}
	return f.Default
}

// Rule decides about one system call: the first case whose test holds, else Action.
type Rule struct {
	ABI    syscalls.ABI
	NR     int // with [syscalls.X32Bit] for X32
	Cases  []Case
	Action Action
}

// Case is an action for some of a number's calls.
type Case struct {
	Test   Test
	Action Action
}

// Test looks at a call. Which of the two it is says Kind.
type Test struct {
	Kind TestKind
	// Arg is the index of the argument whose bits in Mask must be equal to Value.
	Arg         int
	Mask, Value uint64
	// Low and High bound the addresses, High excluded, that the call's IP must be within.
	Low, High uint64
}

// TestKind names what a [Test] compares.
type TestKind uint8

// The kinds of tests.
const (
	TestArgument TestKind = iota
	TestAddress
)

// Argument tests bits of an argument in its register.
func Argument(index int, mask, value uint64) Test {
	return Test{Kind: TestArgument, Arg: index, Mask: mask, Value: value}
}

// Within tests where the call is made from: low ≤ IP < high.
func Within(low, high uint64) Test { return Test{Kind: TestAddress, Low: low, High: high} }

// Holds reports whether a call passes the test.
func (t Test) Holds(c *Call) bool {
	if t.Kind == TestAddress {
		return t.Low <= c.IP && c.IP < t.High
	}
	return c.Args[t.Arg]&t.Mask == t.Value
}

// Evaluate returns what a filter says to a call.
func (f *Filter) Evaluate(c *Call) Action {
	for i := range f.Rules {
		if r := &f.Rules[i]; r.ABI == c.ABI && uint32(r.NR) == c.NR {
			for _, k := range r.Cases {
				if k.Test.Holds(c) {
					return k.Action
				}
			}
			return r.Action
		}
	}
	return f.defaultOf(c.ABI)
}

// span is the numbers from one on that all have the same answer.
type span struct {
	from   uint32
	cases  []Case
	action Action
}

func (s *span) same(o *span) bool { return s.action == o.action && slices.Equal(s.cases, o.cases) }

// bounds of an ABI's numbers. On amd64 all numbers without the x32 bit are amd64's, even negative ones with it x32's.
var bounds = map[syscalls.ABI]struct{ first, last uint32 }{
	syscalls.AMD64: {0, syscalls.X32Bit - 1},
	syscalls.X32:   {syscalls.X32Bit, 1<<32 - 1},
	syscalls.I386:  {0, 1<<32 - 1},
}

// spans divides an ABI's numbers, sorted.
func (f *Filter) spans(abi syscalls.ABI) ([]span, error) {
	limit := bounds[abi]
	var rules []Rule
	for _, r := range f.Rules {
		if r.ABI == abi {
			rules = append(rules, r)
		}
	}
	slices.SortFunc(rules, func(a, b Rule) int { return cmp.Compare(uint32(a.NR), uint32(b.NR)) })
	var out []span
	add := func(s span) {
		if n := len(out); n == 0 || !out[n-1].same(&s) {
			out = append(out, s)
		}
	}
	next := uint64(limit.first)
	for _, r := range rules {
		nr := uint64(uint32(r.NR))
		if nr < uint64(limit.first) || nr > uint64(limit.last) {
			return nil, fmt.Errorf("seccomp filter: %d is no system call number of %v", r.NR, abi)
		}
		if nr < next {
			return nil, fmt.Errorf("seccomp filter: two rules for number %d of %v", r.NR, abi)
		}
		if nr > next {
			add(span{uint32(next), nil, f.defaultOf(abi)})
		}
		add(span{uint32(nr), r.Cases, r.Action})
		next = nr + 1
	}
	if next <= uint64(limit.last) {
		add(span{uint32(next), nil, f.defaultOf(abi)})
	}
	return out, nil
}
