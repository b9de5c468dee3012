package stats

import (
	"cmp"
	"slices"
	"strings"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

// Program is what the document says about one program image.
type Program struct {
	Path     string          `json:"path"`
	BuildID  string          `json:"build_id"`
	Arch     attribution.ABI `json:"arch"`
	Complete bool            `json:"complete"`
	// Compartments are sorted by privilege, the greatest first.
	Compartments []Compartment `json:"compartments"`
	// Union is what one filter for the whole program has to allow.
	Union Set `json:"union"`
	// Privilege is that of the most privileged compartment.
	Privilege int `json:"privilege"`
	// Reduction is 1 − Privilege ÷ Union.Privilege: 0 where one compartment makes all calls.
	Reduction float64 `json:"reduction"`
	// Pairs are the pairs of compartments with common calls, by the greatest overlap first.
	Pairs []Pair `json:"pairs"`
	// Shared are the calls of two or more compartments, sorted by what they cost: see [Shared.Cost].
	Shared []Shared `json:"shared"`
}

// Set is a set of system calls.
type Set struct {
	// Syscalls are labels, sorted: the name, with "ABI:" in front where the ABI is not the program's.
	Syscalls []string `json:"syscalls"`
	// Privilege is the sum of their weights.
	Privilege int `json:"privilege"`
	// ByDanger has the number of calls of each danger class: [0] is class 1.
	ByDanger [3]int `json:"by_danger"`
}

// Compartment is what one compartment needs.
type Compartment struct {
	Name string `json:"name"`
	// Conduit is true for the C library and the loader, for themselves.
	Conduit bool `json:"conduit"`
	// Calls is the number of calls seen, 0 where only static evidence exists.
	Calls uint64 `json:"calls"`
	Set
	// Own are the calls that no other compartment makes.
	Own []string `json:"own"`
}

// Pair is the overlap of two compartments.
type Pair struct {
	A      string   `json:"a"`
	B      string   `json:"b"`
	Common []string `json:"common"`
	// Overlap is the common calls ÷ the calls that either makes (Jaccard's index), 0 to 1.
	Overlap float64 `json:"overlap"`
}

// Shared is a call that keeps compartments from being told apart by it.
type Shared struct {
	Syscall      string   `json:"syscall"`
	Weight       int      `json:"weight"`
	Compartments []string `json:"compartments"`
}

// Cost is the privilege that the call adds to compartments beyond the first: if only one made it, the sum of privileges
// would be less by that.
func (s *Shared) Cost() int { return s.Weight * (len(s.Compartments) - 1) }

// weight is that of the call that a label names.
func weight(label string) int { return syscalls.Weight(label[strings.IndexByte(label, ':')+1:]) }

// Of measures the programs of a document, in its order. It takes the calls with one of the kinds of evidence given; none
// is all.
func Of(d *attribution.Document, evidence ...attribution.Evidence) []Program {
	programs := make([]Program, 0, len(d.Programs))
	for i := range d.Programs {
		programs = append(programs, measure(&d.Programs[i], evidence))
	}
	return programs
}

func measure(p *attribution.Program, evidence []attribution.Evidence) Program {
	out := Program{Path: p.Path, BuildID: p.BuildID, Arch: p.Arch, Complete: p.Complete,
		Compartments: []Compartment{}, Pairs: []Pair{}, Shared: []Shared{}}
	makers := make(map[string][]string) // compartments by label
	for i := range p.Compartments {
		c := &p.Compartments[i]
		var labels []string
		for j := range c.Syscalls {
			if s := &c.Syscalls[j]; wanted(s, evidence) {
				labels = append(labels, s.Label(p.Arch))
				makers[s.Label(p.Arch)] = append(makers[s.Label(p.Arch)], c.Name)
			}
		}
		if len(labels) > 0 {
			out.Compartments = append(out.Compartments, Compartment{
				Name: c.Name, Conduit: conduit(p, c.Name), Calls: c.Calls(), Set: setOf(labels),
			})
		}
	}
	var union []string
	for label, names := range makers {
		union = append(union, label)
		if len(names) > 1 {
			out.Shared = append(out.Shared, Shared{label, weight(label), names})
		}
	}
	out.Union = setOf(union)
	out.own(makers)
	out.order()
	out.pairs()
	if out.Union.Privilege > 0 {
		out.Privilege = out.Compartments[0].Privilege
		out.Reduction = 1 - float64(out.Privilege)/float64(out.Union.Privilege)
	}
	return out
}

func wanted(s *attribution.Syscall, evidence []attribution.Evidence) bool {
	return len(evidence) == 0 ||
		slices.ContainsFunc(evidence, func(e attribution.Evidence) bool { return slices.Contains(s.Evidence, e) })
}

func conduit(p *attribution.Program, compartment string) bool {
	return slices.ContainsFunc(p.Objects, func(o attribution.Object) bool { return o.Compartment == compartment && o.Conduit })
}

// setOf takes over labels.
func setOf(labels []string) Set {
	slices.Sort(labels)
	s := Set{Syscalls: slices.Compact(labels)}
	for _, label := range s.Syscalls {
		w := weight(label)
		s.Privilege += w
		s.ByDanger[w-1]++
	}
	return s
}

func (p *Program) own(makers map[string][]string) {
	for i := range p.Compartments {
		c := &p.Compartments[i]
		c.Own = []string{}
		for _, label := range c.Syscalls {
			if len(makers[label]) == 1 {
				c.Own = append(c.Own, label)
			}
		}
	}
}

func (p *Program) order() {
	slices.SortFunc(p.Compartments, func(a, b Compartment) int {
		return cmp.Or(b.Privilege-a.Privilege, strings.Compare(a.Name, b.Name))
	})
	slices.SortFunc(p.Shared, func(a, b Shared) int {
		return cmp.Or(b.Cost()-a.Cost(), b.Weight-a.Weight, strings.Compare(a.Syscall, b.Syscall))
	})
}

func (p *Program) pairs() {
	for i := range p.Compartments {
		for j := i + 1; j < len(p.Compartments); j++ {
			if pair := overlap(&p.Compartments[i], &p.Compartments[j]); len(pair.Common) > 0 {
				p.Pairs = append(p.Pairs, pair)
			}
		}
	}
	slices.SortStableFunc(p.Pairs, func(a, b Pair) int {
		return cmp.Or(cmp.Compare(b.Overlap, a.Overlap), len(b.Common)-len(a.Common))
	})
}

func overlap(a, b *Compartment) Pair {
	pair := Pair{A: a.Name, B: b.Name}
	for _, label := range a.Syscalls {
		if _, ok := slices.BinarySearch(b.Syscalls, label); ok {
			pair.Common = append(pair.Common, label)
		}
	}
	pair.Overlap = float64(len(pair.Common)) / float64(len(a.Syscalls)+len(b.Syscalls)-len(pair.Common))
	return pair
}

// Closest returns the pair of a compartment with the greatest overlap, or nil if it has no call in common with another.
func (p *Program) Closest(compartment string) *Pair {
	i := slices.IndexFunc(p.Pairs, func(pair Pair) bool { return pair.A == compartment || pair.B == compartment })
	if i < 0 {
		return nil
	}
	return &p.Pairs[i]
}

// Other returns the pair's compartment that is not the one given.
func (pair *Pair) Other(compartment string) string {
	if pair.A == compartment {
		return pair.B
	}
	return pair.A
}

// Separation is the part of the union's privilege, 0 to 1, that is in calls which only one compartment makes.
func (p *Program) Separation() float64 {
	if p.Union.Privilege == 0 {
		return 0
	}
	shared := 0
	for _, s := range p.Shared {
		shared += s.Weight
	}
	return 1 - float64(shared)/float64(p.Union.Privilege)
}
