package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

// check finds what can be wrong only once all is read: a program's architecture
// may stand behind its calls.
func (p *parser) check() {
	if !p.schema {
		p.fail(position{}, "there is no schema: write schema = %q first", Schema)
	}
	if len(p.policy.Programs) == 0 {
		p.fail(position{}, "there is no [[program]]: a policy lists the program images that may run")
	}
	for _, call := range p.policy.Baseline.Calls {
		p.checkCall(call, syscalls.AMD64, syscalls.I386, syscalls.ARM64)
	}
	paths := make(map[string]int)
	for i := range p.policy.Programs {
		program := &p.policy.Programs[i]
		p.checkProgram(program, paths)
		for _, c := range program.Compartments {
			for _, call := range c.Allow.Calls {
				p.checkCall(call, program.ABI)
			}
		}
	}
}

// checkCall checks that a program of one of the ABIs has the call.
func (p *parser) checkCall(call Call, abis ...syscalls.ABI) {
	var first error
	for _, abi := range abis {
		_, err := expand(call.Name, abi)
		if err == nil {
			return
		}
		first = cmp.Or(first, err)
	}
	p.fail(position{call.Line, call.Column}, "%v", first)
}

// maxCompartments bounds the compartments of a program: a verdict is a bit each.
const maxCompartments = 4096

func (p *parser) checkProgram(program *Program, paths map[string]int) {
	at := position{program.Line, 1}
	if program.Path == "" {
		p.fail(at, "[[program]] has no path")
	} else if line := paths[program.Path]; line != 0 {
		p.fail(at, "the program %s is listed already (line %d)", program.Path, line)
	}
	paths[program.Path] = program.Line
	if len(program.Compartments) > maxCompartments {
		p.fail(at, "%s has more than %d compartments", program.Path, maxCompartments)
	}
	names := make(map[string]int)
	taken := make(map[string]string)
	for i := range program.Compartments {
		c := &program.Compartments[i]
		at := position{c.Line, 1}
		switch {
		case c.Name == "":
			p.fail(at, "[[program.compartment]] has no name")
			continue
		case names[c.Name] != 0:
			p.fail(at, "the compartment %q is there already (line %d)", c.Name, names[c.Name])
		case len(c.Symbols) > 0 && len(c.Modules) > 0:
			p.fail(at, "compartment %q: has both symbols and modules; make two compartments", c.Name)
		case c.Name == attribution.Unknown && (c.Match != nil || c.Symbols != nil || c.Modules != nil):
			p.fail(at, "compartment %s is what no other matches: it has no patterns of its own", c.Name)
		case c.Match != nil && len(c.Match) == 0:
			p.fail(at, "compartment %q: match is empty, so that it can never have any code", c.Name)
		case c.Allow.Line == 0:
			p.fail(at, "compartment %q has no allow: write allow = [] if it may do nothing beyond the baseline", c.Name)
		}
		names[c.Name] = c.Line
		p.setDefaultMatch(program, c, at)
		for _, claim := range c.claims() {
			if other := taken[claim]; other != "" {
				p.fail(at, "compartment %q matches %s, which compartment %q takes before it", c.Name, claim, other)
			}
			taken[claim] = c.Name
		}
	}
}

func (p *parser) setDefaultMatch(program *Program, c *Compartment, at position) {
	if c.Match != nil {
		return
	}
	c.Match = c.defaultMatch(program)
	for _, m := range c.Match {
		if err := checkPattern(m); err != nil && !c.part() {
			p.fail(at, "compartment %q has no match, and its name is no pattern: %v", c.Name, err)
		}
	}
}

// defaultMatch returns the patterns of a compartment whose match is not given.
func (c *Compartment) defaultMatch(program *Program) []string {
	switch {
	case c.Name == attribution.Unknown:
		return nil
	case c.part():
		return []string{program.Path}
	default:
		return []string{c.Name}
	}
}

// claims returns the patterns, with those of the part if it is a part.
func (c *Compartment) claims() []string {
	parts := slices.Concat(c.Symbols, c.Modules)
	if len(parts) == 0 {
		return c.Match
	}
	var out []string
	for _, m := range c.Match {
		for _, part := range parts {
			out = append(out, fmt.Sprintf("%s of %s", part, m))
		}
	}
	return out
}

// expand returns the system calls that an entry of a list stands for, in a
// program of the ABI given.
func expand(name string, own syscalls.ABI) ([]Number, error) {
	abi, rest := own, name
	if prefix, tail, ok := strings.Cut(name, ":"); ok {
		parsed, err := syscalls.ParseABI(prefix)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		if parsed.String() != prefix {
			return nil, fmt.Errorf("%q: write %s:%s", name, parsed, tail)
		}
		abi, rest = parsed, tail
	}
	if strings.HasPrefix(rest, "@") {
		return expandGroup(rest, abi)
	}
	if nr, ok := syscalls.Number(abi, rest); ok {
		return []Number{{abi, nr}}, nil
	}
	var nr int
	if n, err := fmt.Sscanf(rest, "syscall_%d", &nr); err == nil && n == 1 && rest == fmt.Sprintf("syscall_%d", nr) {
		if known, ok := syscalls.Name(abi, nr); ok {
			return nil, fmt.Errorf("%q: has a name, %s", name, known)
		}
		return []Number{{abi, nr}}, nil
	}
	return nil, unknownCall(name, rest, abi)
}

func expandGroup(name string, abi syscalls.ABI) ([]Number, error) {
	g, ok := syscalls.GroupByName(name)
	if !ok {
		var names []string
		for _, g := range syscalls.Groups() {
			names = append(names, g.Name)
		}
		return nil, fmt.Errorf("unknown group %q%s", name, suggestion(name, names))
	}
	var out []Number
	for _, call := range g.Syscalls {
		if nr, ok := syscalls.Number(abi, call); ok {
			out = append(out, Number{abi, nr})
		}
	}
	return out, nil
}

func unknownCall(name, call string, abi syscalls.ABI) error {
	for _, other := range []syscalls.ABI{syscalls.AMD64, syscalls.I386, syscalls.ARM64} {
		if _, ok := syscalls.Number(other, call); ok {
			return fmt.Errorf("%q is no system call of %s, but one of %s", name, abi, other)
		}
	}
	var names []string
	for _, n := range syscalls.All(abi) {
		names = append(names, n)
	}
	return fmt.Errorf("unknown system call %q of %s%s", name, abi, suggestion(call, names))
}
