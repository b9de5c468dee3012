package profile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/internal/policy"
	"bulkhead/internal/syscalls"
)

// Profile is what one filter for a whole process lets through.
type Profile struct {
	ABI         syscalls.ABI       // the programs' own
	Calls       []policy.Number    // allowed, sorted by ABI and number
	OnViolation policy.OnViolation // what happens to all others
	Policy      *policy.Policy     // what it was made of
}

// Of unites what the programs of a policy may do. They must have one architecture.
func Of(p *policy.Policy) (*Profile, error) {
	out := &Profile{ABI: p.Programs[0].ABI, OnViolation: p.OnViolation, Policy: p}
	for i := range p.Programs {
		program := &p.Programs[i]
		if program.ABI != out.ABI {
			return nil, fmt.Errorf("%s is of %s and %s of %s: a profile has one architecture, so make a policy for each",
				p.Programs[0].Path, out.ABI, program.Path, program.ABI)
		}
		rules, _ := p.Rules(program.Path)
		out.Calls = append(out.Calls, rules.Numbers(policy.AllowedToAll)...)
		out.Calls = append(out.Calls, rules.Numbers(policy.Conditional)...)
	}
	out.Calls = sorted(out.Calls)
	return out, nil
}

func sorted(calls []policy.Number) []policy.Number {
	slices.SortFunc(calls, compare)
	return slices.Compact(calls)
}

func compare(a, b policy.Number) int {
	return cmp.Or(cmp.Compare(a.ABI, b.ABI), cmp.Compare(a.NR, b.NR))
}

// Allows reports whether the filter lets a call through.
func (p *Profile) Allows(n policy.Number) bool {
	_, ok := slices.BinarySearchFunc(p.Calls, n, compare)
	return ok
}

// names returns the names of the calls, sorted, for formats that have one list for all architectures.
func (p *Profile) names(format string) ([]string, error) {
	var names []string
	for _, n := range p.Calls {
		if n.ABI != p.ABI {
			return nil, fmt.Errorf("the policy allows calls of %s in a program of %s: %s has one list of names for both; remove them, or take --format bpf",
				n.ABI, p.ABI, format)
		}
		name, ok := syscalls.Name(n.ABI, n.NR)
		if !ok {
			return nil, fmt.Errorf("the policy allows syscall_%d, which has no name: %s has names only; remove it, or take --format bpf", n.NR, format)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// denied returns the known calls of the program's ABI that are not allowed and fail with errno, sorted.
func (p *Profile) denied(errno unix.Errno) []string {
	rules, _ := p.Policy.Rules(p.Policy.Programs[0].Path)
	var names []string
	for nr, name := range syscalls.All(p.ABI) {
		if !p.Allows(policy.Number{ABI: p.ABI, NR: nr}) && rules.Errno(p.ABI, nr) == errno {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// without returns the names that are not in other.
func without(names, other []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(s string) bool { return slices.Contains(other, s) })
}

// onePolicy makes the policy of a filter for a whole program: its only compartment is the one that all code belongs to
// which no other claims. To divide the program, add compartments and move calls to them.
func onePolicy(program string, abi syscalls.ABI, on policy.OnViolation, names []string) (*policy.Policy, error) {
	if !strings.HasPrefix(program, "/") {
		return nil, fmt.Errorf("program %q: give the absolute path of the program that the filter is for", program)
	}
	calls := make([]policy.Call, len(names))
	for i, name := range names {
		calls[i] = policy.Call{Name: name}
	}
	p := &policy.Policy{
		Check: policy.Origin, OnViolation: on, OnExec: policy.InheritExec,
		Programs: []policy.Program{{
			Path: program, ABI: abi, Compartments: []policy.Compartment{{Name: "[unknown]", Allow: policy.List{Calls: calls, Line: 1}}},
		}},
	}
	text, err := p.Text()
	if err != nil {
		return nil, err
	}
	return policy.Parse("the imported policy", text)
}
