package policy

import (
	"bytes"
	"slices"
	"strings"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

// Extend adds to a policy file what it denies of the document, and nothing
// else: calls to the lists of their compartments, compartments for code that
// was in [unknown], programs for images that are not listed. The rest of the
// file, with its comments, stays; all is laid out as [Format] does. It returns
// what it added. The errors are those of [Parse] and [Derive].
func Extend(name string, data []byte, d *attribution.Document, o Options) ([]byte, []Violation, error) {
	p, err := Parse(name, data)
	if err != nil {
		return nil, nil, err
	}
	if lost := incomplete(d); lost != nil && !o.Incomplete {
		return nil, nil, lost
	}
	violations := p.Violations(d)
	add := &additions{policy: p, calls: make(map[*Compartment][]Call), compartments: make(map[*Program][]Compartment)}
	unlisted := &attribution.Document{Schema: d.Schema}
	for i := range violations {
		v := &violations[i]
		if v.Syscall != "" {
			add.call(v)
			continue
		}
		for j := range d.Programs {
			if d.Programs[j].Path == v.Program {
				unlisted.Programs = append(unlisted.Programs, d.Programs[j])
			}
		}
	}
	if len(unlisted.Programs) > 0 {
		derived, _, err := derive(unlisted, &Options{Baseline: len(p.Baseline.Calls) > 0, Check: p.Check})
		if err != nil {
			return nil, nil, err
		}
		add.programs = derived.Programs
	}
	text, err := Format(name, layOut(data, add)) // again, for what was added
	return text, violations, err
}

// additions are what a file gets while it is laid out. The formatter tells where
// it is; a nil *additions adds nothing.
type additions struct {
	policy       *Policy
	calls        map[*Compartment][]Call
	compartments map[*Program][]Compartment
	programs     []Program

	program, compartment int // the ones that are being laid out, from 1
	section              string
}

// call adds the call of a violation.
func (a *additions) call(v *Violation) {
	program := a.policy.governing(v.Program)
	call := Call{Name: v.Syscall, Note: noteOfViolation(v)}
	if c := program.compartment(v.Compartment); c != nil && (v.Compartment != attribution.Unknown || v.Object == v.Compartment) {
		a.calls[c] = with(a.calls[c], call)
		return
	}
	name, pattern := roomName(newObject(v.path))
	if program.compartment(name) != nil { // it has other code
		name = v.path
	}
	added := a.compartments[program]
	i := slices.IndexFunc(added, func(c Compartment) bool { return c.Name == name })
	if i < 0 {
		i = len(added)
		added = append(added, Compartment{Name: name, Match: []string{pattern}})
	}
	l := &added[i].Allow
	l.Calls = with(l.Calls, call)
	sortByDanger(l)
	a.compartments[program] = added
}

// with adds a call, once.
func with(calls []Call, c Call) []Call {
	if slices.ContainsFunc(calls, func(have Call) bool { return have.Name == c.Name }) {
		return calls
	}
	return append(calls, c)
}

// governing returns the program whose rules governed the image at path: the one
// that lists it, or that the image inherits from.
func (p *Policy) governing(path string) *Program {
	if r, ok := p.Rules(path); ok {
		return r.Program
	}
	return &p.Programs[0]
}

func noteOfViolation(v *Violation) string {
	why := reasons{via: make(map[string]struct{})}
	why.static = slices.Contains(v.Evidence, attribution.Static)
	why.traced = slices.Contains(v.Evidence, attribution.Traced)
	for _, via := range v.Via {
		why.via[via] = struct{}{}
	}
	return why.note(v.Syscall)
}

// header comes before the header of a table is written.
func (a *additions) header(name string, out *bytes.Buffer) {
	if a == nil {
		return
	}
	switch name {
	case "program":
		a.programEnd(out)
		a.program++
		a.compartment = 0
	case "program.compartment":
		a.compartment++
		if c := a.at(); c.Name == attribution.Unknown {
			a.programEnd(out)
		}
	}
	a.section = name
}

// at returns the compartment that is being laid out.
func (a *additions) at() *Compartment {
	return &a.policy.Programs[a.program-1].Compartments[a.compartment-1]
}

// programEnd writes the compartments that a program gets, once.
func (a *additions) programEnd(out *bytes.Buffer) {
	if a.program == 0 {
		return
	}
	program := &a.policy.Programs[a.program-1]
	added := a.compartments[program]
	slices.SortFunc(added, func(a, b Compartment) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range added {
		out.WriteString("\n")
		writeCompartment(out, program, &c)
	}
	delete(a.compartments, program)
}

// programsEnd comes after the last line.
func (a *additions) programsEnd(out *bytes.Buffer) {
	if a == nil {
		return
	}
	a.programEnd(out)
	for i := range a.programs {
		out.WriteString("\n")
		writeProgram(out, &a.programs[i])
	}
}

// merge adds entries to the list that is being laid out.
func (a *additions) merge(items []item) []item {
	if a == nil || a.section != "program.compartment" {
		return items
	}
	for _, c := range a.calls[a.at()] {
		items = insert(items, c)
	}
	return items
}

// insert puts a call into a list: into the run below the comment that names its
// danger class, in the order of the names, or at the end.
func insert(items []item, c Call) []item {
	add := item{word: quote(c.Name), note: "# " + c.Note}
	class, _, _ := strings.Cut(dangers[danger(c.Name)], ":")
	classes := false
	for at := 0; at < len(items); {
		run := runOf(items[at:])
		heading := uncomment(run[0].heading...)
		if strings.HasPrefix(heading, class) {
			return slices.Insert(items, at+place(run, &add), add)
		}
		for _, d := range []int{syscalls.Critical, syscalls.Disruptive, syscalls.Harmless} {
			word, _, _ := strings.Cut(dangers[d], ":")
			classes = classes || strings.HasPrefix(heading, word)
		}
		at += len(run)
	}
	if classes {
		add.heading = []string{"# " + dangers[danger(c.Name)]}
	}
	if n := len(items); n > 0 && items[n-1].word == "" {
		return slices.Insert(items, n-1, add)
	}
	return append(items, add)
}

// place finds where an entry goes in a run. One that becomes the first takes the
// run's heading.
func place(run []item, add *item) int {
	i := slices.IndexFunc(run, func(i item) bool { return i.word == "" || i.word > add.word })
	if i < 0 {
		return len(run)
	}
	if i == 0 {
		add.heading, run[0].heading = run[0].heading, nil
	}
	return i
}
