package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

// Violation is a system call of a document that a policy denies.
type Violation struct {
	// Program is the program image that makes the call.
	Program string `json:"program"`
	// Compartment is the policy's that may not make it; Object is the
	// document's compartment, whose code makes it or, with [Chain], leads to it.
	Compartment string `json:"compartment"`
	Object      string `json:"object"`
	// Syscall is the call's label. It is empty if the whole image is denied.
	Syscall string `json:"syscall"`
	// Danger is the call's danger class, 1 to 3; 0 if it is unknown.
	Danger   int                    `json:"danger"`
	Count    uint64                 `json:"count"` // calls seen
	Evidence []attribution.Evidence `json:"evidence"`
	Via      []string               `json:"via"`
	Example  []attribution.Frame    `json:"example"` // innermost first
	// Decided is the line of the policy that decided, Remedy the edit that would
	// allow the call: see [Why].
	Decided string `json:"decided"`
	Remedy  string `json:"remedy"`

	path string // of the object that the compartment was found for
}

// ViolationRow is one row of the violations' CSV and Parquet forms; lists are
// joined by semicolons.
type ViolationRow struct {
	Program     string `parquet:"program"`
	Compartment string `parquet:"compartment"`
	Object      string `parquet:"object"`
	Syscall     string `parquet:"syscall"`
	Danger      int32  `parquet:"danger"`
	Count       uint64 `parquet:"count"`
	Evidence    string `parquet:"evidence"`
	Via         string `parquet:"via"`
	Decided     string `parquet:"decided"`
	Remedy      string `parquet:"remedy"`
}

// ViolationRows returns the violations as rows, without their stacks.
func ViolationRows(violations []Violation) []ViolationRow {
	rows := make([]ViolationRow, len(violations))
	for i, v := range violations {
		kinds := make([]string, len(v.Evidence))
		for j, e := range v.Evidence {
			kinds[j] = string(e)
		}
		rows[i] = ViolationRow{v.Program, v.Compartment, v.Object, v.Syscall, int32(v.Danger), v.Count,
			strings.Join(kinds, ";"), strings.Join(v.Via, ";"), v.Decided, v.Remedy}
	}
	return rows
}

// Violations returns what of the document's evidence the policy would deny, the
// most dangerous first. An image that the policy does not list is one violation,
// or, if on-exec is inherit, governed by the rules of the first image of the
// document that is listed.
func (p *Policy) Violations(d *attribution.Document) []Violation {
	out := []Violation{}
	var first *Rules
	for i := range d.Programs {
		program := &d.Programs[i]
		rules, ok := p.Rules(program.Path)
		if !ok && p.OnExec == InheritExec {
			rules = first
		}
		if first == nil {
			first = rules
		}
		if rules == nil {
			out = append(out, p.unlisted(program))
			continue
		}
		c := checker{rules: rules, program: program, index: make(map[violationKey]int)}
		c.origins()
		if rules.Check == Chain {
			c.chains()
		}
		out = append(out, c.found...)
	}
	slices.SortStableFunc(out, func(a, b Violation) int {
		return cmp.Or(cmp.Compare(b.Danger, a.Danger), strings.Compare(a.Program, b.Program),
			strings.Compare(a.Compartment, b.Compartment), strings.Compare(a.Syscall, b.Syscall), strings.Compare(a.Object, b.Object))
	})
	return out
}

func (p *Policy) unlisted(program *attribution.Program) Violation {
	return Violation{
		Program: program.Path, Danger: syscalls.Danger("execve"), Count: program.Calls(),
		Evidence: []attribution.Evidence{}, Via: []string{}, Example: []attribution.Frame{},
		Decided: fmt.Sprintf("%s: no [[program]] has this path, and on-exec is %q", p.File, p.OnExec),
		Remedy:  fmt.Sprintf("%s: add [[program]] with path = %q", p.File, program.Path),
	}
}

// checker collects the violations of one program.
type checker struct {
	rules   *Rules
	program *attribution.Program
	found   []Violation
	index   map[violationKey]int
}

type violationKey struct{ compartment, object, call string }

func (c *checker) origins() {
	for i := range c.program.Compartments {
		from := &c.program.Compartments[i]
		for j := range from.Syscalls {
			s := &from.Syscalls[j]
			if n, ok := numberOf(s); ok {
				c.ask(from.Name, n, s)
			}
		}
	}
}

func numberOf(s *attribution.Syscall) (Number, bool) {
	abi, err := syscalls.ParseABI(string(s.ABI))
	return Number{abi, s.NR}, err == nil
}

// chains asks the compartments that called the origins.
func (c *checker) chains() {
	for _, ch := range c.program.Chains {
		origin := c.program.Compartment(ch.Compartments[0])
		if origin == nil {
			continue
		}
		for j := range origin.Syscalls {
			s := &origin.Syscalls[j]
			n, ok := numberOf(s)
			if !ok || !slices.Contains(ch.Syscalls, s.Label(c.program.Arch)) {
				continue
			}
			for _, name := range ch.Compartments[1:] {
				c.ask(name, n, s)
			}
		}
	}
}

// ask adds a violation for each policy compartment that has the document's
// compartment's code and may not make the call.
func (c *checker) ask(name string, n Number, s *attribution.Syscall) {
	for _, code := range c.codeOf(name, s) {
		if c.rules.Allows(code.id, n.ABI, n.NR) {
			continue
		}
		why := c.rules.Why(code.id, code.path, n.ABI, n.NR)
		key := violationKey{why.Compartment, name, why.Call}
		if _, ok := c.index[key]; ok {
			continue
		}
		c.index[key] = len(c.found)
		c.found = append(c.found, Violation{
			Program: c.program.Path, Compartment: why.Compartment, Object: name, Syscall: why.Call,
			Danger: syscalls.Danger(s.Name), Count: s.Count, Evidence: s.Evidence, Via: s.Via, Example: s.Example,
			Decided: why.Decided, Remedy: why.Remedy, path: code.path,
		})
	}
}

// code is a policy compartment, with an object that it was found for.
type code struct {
	id   ID
	path string
}

// codeOf returns where the code of a document's compartment is in the policy.
// The document may have several objects, or a part of one, in a compartment:
// the example tells which of them made the call.
func (c *checker) codeOf(name string, s *attribution.Syscall) []code {
	if name == attribution.Unknown {
		return []code{{Unknown, ""}}
	}
	var all []code
	for i := range c.program.Objects {
		o := &c.program.Objects[i]
		if o.Compartment != name {
			continue
		}
		id := c.rules.Compartment(o.Path)
		if f, ok := originFrame(s.Example, o); ok {
			return []code{{c.partOf(o.Path, f, id), o.Path}}
		}
		if !slices.ContainsFunc(all, func(have code) bool { return have.id == id }) {
			all = append(all, code{id, o.Path})
		}
	}
	if all != nil {
		return all
	}
	if strings.HasPrefix(name, "[") {
		return []code{{c.rules.Compartment(name), name}}
	}
	return []code{c.module(name)}
}

// originFrame returns the innermost frame of an example in the object's code, if
// what is further in is conduits.
func originFrame(example []attribution.Frame, o *attribution.Object) (attribution.Frame, bool) {
	for _, f := range example {
		if f.Object == o.Name {
			return f, true
		}
	}
	return attribution.Frame{}, false
}

func (c *checker) partOf(path string, f attribution.Frame, whole ID) ID {
	for _, part := range c.rules.Parts(path) {
		if f.Function != "" && part.Symbol(f.Function) {
			return part.ID
		}
	}
	return whole
}

// module finds a compartment that is a part of an object in the document.
func (c *checker) module(name string) code {
	object := c.program.Path
	for _, o := range c.program.Objects {
		if slices.ContainsFunc(o.Parts, func(p attribution.Part) bool { return p.Name == name }) {
			object = o.Path
		}
	}
	for _, part := range c.rules.Parts(object) {
		if part.Module(name) {
			return code{part.ID, object}
		}
	}
	for id := range c.rules.Len() {
		if c.rules.Name(ID(id)) == name {
			return code{ID(id), object}
		}
	}
	return code{c.rules.Compartment(object), object}
}
