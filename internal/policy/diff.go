package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

// Change is a difference between two policies: a system call that a
// compartment gained or lost, or a setting.
type Change struct {
	// Danger is the call's danger class, 1 to 3; 0 if it is unknown. Settings
	// that weaken have 3, other settings 2.
	Danger int `json:"danger"`
	// Program is the path, empty for settings and for the baseline, which hold
	// for all.
	Program     string `json:"program"`
	Compartment string `json:"compartment"`
	Syscall     string `json:"syscall"`
	// Gained says that the second policy allows the call, and the first does not.
	Gained bool `json:"gained"`
	// Setting is the key of a setting that differs, From and To are its values.
	Setting string `json:"setting"`
	From    string `json:"from"`
	To      string `json:"to"`
}

// ChangeRow is one row of the changes' CSV and Parquet forms.
type ChangeRow struct {
	Change      string `parquet:"change"` // gained, lost or set
	Program     string `parquet:"program"`
	Compartment string `parquet:"compartment"`
	Syscall     string `parquet:"syscall"`
	Danger      int32  `parquet:"danger"`
	Setting     string `parquet:"setting"`
	From        string `parquet:"from"`
	To          string `parquet:"to"`
}

// ChangeRows returns the changes as rows.
func ChangeRows(changes []Change) []ChangeRow {
	rows := make([]ChangeRow, len(changes))
	for i, c := range changes {
		kind := "lost"
		switch {
		case c.Setting != "":
			kind = "set"
		case c.Gained:
			kind = "gained"
		}
		rows[i] = ChangeRow{kind, c.Program, c.Compartment, c.Syscall, int32(c.Danger), c.Setting, c.From, c.To}
	}
	return rows
}

// Baseline stands for every compartment in changes.
const Baseline = "[baseline]"

// Diff returns what differs from a to b, the most dangerous first. A compartment
// that one of the two lacks is compared with what [unknown] may do there.
func Diff(a, b *Policy) []Change {
	d := differ{
		a: a, b: b, out: []Change{},
		lost:   without(labelsOf(a.Baseline, nil), labelsOf(b.Baseline, nil)),
		gained: without(labelsOf(b.Baseline, nil), labelsOf(a.Baseline, nil)),
	}
	d.setting("", "", "check", string(a.Check), string(b.Check), b.Check == Origin)
	d.setting("", "", "on-violation", string(a.OnViolation), string(b.OnViolation), b.OnViolation == Audit)
	d.setting("", "", "on-exec", string(a.OnExec), string(b.OnExec), b.OnExec == InheritExec)
	d.setting("", "", "conduits", list(a.Conduits), list(b.Conduits), true)
	d.calls("", Baseline, d.lost, d.gained)
	d.programs()
	slices.SortStableFunc(d.out, func(x, y Change) int {
		return cmp.Or(cmp.Compare(y.Danger, x.Danger), strings.Compare(x.Program, y.Program),
			strings.Compare(x.Compartment, y.Compartment), strings.Compare(x.Setting, y.Setting), strings.Compare(x.Syscall, y.Syscall))
	})
	return d.out
}

type differ struct {
	a, b         *Policy
	lost, gained map[string]struct{} // of the baseline
	out          []Change
}

func list(patterns []string) string { return strings.Join(patterns, ", ") }

func (d *differ) setting(program, compartment, key, from, to string, weaker bool) {
	if from == to {
		return
	}
	danger := syscalls.Disruptive
	if weaker {
		danger = syscalls.Critical
	}
	d.out = append(d.out, Change{Danger: danger, Program: program, Compartment: compartment, Setting: key, From: from, To: to})
}

// labelsOf returns the calls of a list, groups expanded. The baseline has no
// program; its labels are compared as they are, without groups' members of one
// ABI only.
func labelsOf(l List, program *Program) map[string]struct{} {
	own := syscalls.AMD64
	if program != nil {
		own = program.ABI
	}
	out := make(map[string]struct{})
	for _, c := range l.Calls {
		numbers, err := expand(c.Name, own)
		if err != nil {
			out[c.Name] = struct{}{}
		}
		for _, n := range numbers {
			out[label(own, n)] = struct{}{}
		}
	}
	return out
}

func without(set, other map[string]struct{}) map[string]struct{} {
	out := maps.Clone(set)
	for k := range other {
		delete(out, k)
	}
	return out
}

func (d *differ) calls(program, compartment string, lost, gained map[string]struct{}) {
	for _, change := range []struct {
		labels map[string]struct{}
		gained bool
	}{{lost, false}, {gained, true}} {
		for _, l := range slices.Sorted(maps.Keys(change.labels)) {
			d.out = append(d.out, Change{
				Danger: danger(l), Program: program, Compartment: compartment, Syscall: l, Gained: change.gained,
			})
		}
	}
}

func (d *differ) programs() {
	before := make(map[string]*Program)
	for i := range d.a.Programs {
		before[d.a.Programs[i].Path] = &d.a.Programs[i]
	}
	for i := range d.b.Programs {
		p := &d.b.Programs[i]
		d.program(p.Path, before[p.Path], p)
		delete(before, p.Path)
	}
	for _, path := range slices.Sorted(maps.Keys(before)) {
		d.program(path, before[path], nil)
	}
}

// program compares a program; one of the two may be nil.
func (d *differ) program(path string, a, b *Program) {
	d.setting(path, "", "program", presence(a), presence(b), b != nil)
	if a != nil && b != nil {
		d.setting(path, "", "arch", a.ABI.String(), b.ABI.String(), false)
	}
	names := make(map[string]struct{})
	for _, p := range []*Program{a, b} {
		if p != nil {
			for _, c := range p.Compartments {
				names[c.Name] = struct{}{}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		d.compartment(path, name, a, b)
	}
}

func presence(p *Program) string {
	if p == nil {
		return "not listed"
	}
	return "listed"
}

func (d *differ) compartment(path, name string, a, b *Program) {
	before, after := a.compartment(name), b.compartment(name)
	if before != nil && after != nil {
		d.setting(path, name, "match", list(before.Match), list(after.Match), true)
		d.setting(path, name, "symbols", list(before.Symbols), list(after.Symbols), true)
		d.setting(path, name, "modules", list(before.Modules), list(after.Modules), true)
	}
	had, has := d.allowed(d.a, a, before), d.allowed(d.b, b, after)
	lost, gained := without(had, has), without(has, had)
	if a != nil && b != nil { // the baseline's changes are told once
		lost, gained = without(lost, d.lost), without(gained, d.gained)
	}
	d.calls(path, name, lost, gained)
}

// compartment returns the compartment of that name, or nil.
func (p *Program) compartment(name string) *Compartment {
	if p != nil {
		for i := range p.Compartments {
			if p.Compartments[i].Name == name {
				return &p.Compartments[i]
			}
		}
	}
	return nil
}

// allowed returns what a compartment may do; without one, what its code may do.
func (d *differ) allowed(p *Policy, program *Program, c *Compartment) map[string]struct{} {
	if program == nil {
		return nil
	}
	if c == nil {
		c = program.compartment(attribution.Unknown)
	}
	out := labelsOf(p.Baseline, program)
	if c != nil {
		maps.Copy(out, labelsOf(c.Allow, program))
	}
	return out
}

// String tells the change in one line.
func (c Change) String() string {
	who := c.Program
	if c.Compartment != "" {
		who = strings.TrimLeft(who+" "+c.Compartment, " ")
	}
	switch {
	case c.Setting != "" && who == "":
		return fmt.Sprintf("~ %s: %s -> %s", c.Setting, orNone(c.From), orNone(c.To))
	case c.Setting != "":
		return fmt.Sprintf("~ %s: %s: %s -> %s", who, c.Setting, orNone(c.From), orNone(c.To))
	case c.Gained:
		return fmt.Sprintf("+ %s: %s", who, c.Syscall)
	default:
		return fmt.Sprintf("- %s: %s", who, c.Syscall)
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
