package policy

import (
	"cmp"
	"slices"
	"strings"

	"bulkhead/internal/syscalls"
)

// Gain says what a policy gains for one program over a single filter for the
// whole process, which has to allow what any compartment needs.
//
// Each call weighs its danger class, 1 to 3. A compartment's privilege is the
// sum over the distinct calls that it may make, the program's is the greatest
// of its compartments', and the reduction is 1 − that ÷ the sum over the union.
type Gain struct {
	Program      string
	Compartments []Privilege // the greatest first
	Union        Privilege   // of one filter
}

// Privilege is how much somebody may do.
type Privilege struct {
	Name  string
	Calls int // distinct system calls
	Sum   int // of their danger classes
}

// Reduction is the privilege reduction, 0 to 1.
func (g *Gain) Reduction() float64 {
	if g.Union.Sum == 0 || len(g.Compartments) == 0 {
		return 0
	}
	return 1 - float64(g.Compartments[0].Sum)/float64(g.Union.Sum)
}

// Gains returns the gain for each program of the policy. With baseline it counts
// all that a compartment may do; without, only the calls that are its own, as
// published figures do that know no baseline.
func (p *Policy) Gains(baseline bool) []Gain {
	var out []Gain
	for i := range p.Programs {
		out = append(out, p.gain(&p.Programs[i], baseline))
	}
	return out
}

func (p *Policy) gain(program *Program, baseline bool) Gain {
	r := p.compile(program, program.Path)
	g := Gain{Program: program.Path, Compartments: make([]Privilege, r.Len())}
	for id := range g.Compartments {
		g.Compartments[id].Name = r.Name(ID(id))
	}
	for n, granted := range r.allowed {
		if granted.unasked && !baseline {
			continue
		}
		name, _ := syscalls.Name(n.ABI, n.NR)
		weight := syscalls.Weight(name)
		g.Union.add(weight)
		for id := range g.Compartments {
			if r.Allows(ID(id), n.ABI, n.NR) {
				g.Compartments[id].add(weight)
			}
		}
	}
	slices.SortFunc(g.Compartments, func(a, b Privilege) int {
		return cmp.Or(cmp.Compare(b.Sum, a.Sum), cmp.Compare(b.Calls, a.Calls), strings.Compare(a.Name, b.Name))
	})
	return g
}

func (p *Privilege) add(weight int) {
	p.Calls++
	p.Sum += weight
}
