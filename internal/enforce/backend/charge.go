package backend

import (
	"slices"

	"bulkhead/internal/attribution"
	"bulkhead/internal/policy"
	"bulkhead/internal/region"
)

// Division returns the options that divide objects into the parts that programs of a policy name.
func Division(conduits attribution.Conduits, programs ...*policy.Program) region.Options {
	opts := region.Options{Conduits: conduits}
	for _, p := range programs {
		for _, c := range p.Compartments {
			if len(c.Symbols) > 0 {
				opts.Symbols = append(opts.Symbols, region.Symbols{Name: partName(p, c.Name), Patterns: c.Symbols})
			}
		}
	}
	return opts
}

// partName names what a compartment has by its symbols, apart from modules and from those of other programs.
func partName(p *policy.Program, compartment string) string { return p.Path + "\x00" + compartment }

// Charge is whom calls from a region of an object are charged to under the rules for a program.
type Charge struct {
	// IDs are the compartments of the code, innermost first: several where code of one was inlined into another's. The first
	// is charged. Of a conduit, which is charged where nothing else is on the stack, the outermost is the first.
	IDs     []policy.ID
	Conduit bool
	Base    bool // says nothing about who made a call: see region.Region
}

// Charges returns those of an object's regions.
func Charges(m *region.Map, rules *policy.Rules, path string) []Charge {
	whole, parts := rules.Compartment(path), rules.Parts(path)
	ids := make([]policy.ID, len(m.Parts))
	for i := range m.Parts {
		ids[i] = whole
		if at := slices.IndexFunc(parts, func(p policy.Part) bool { return takes(rules, p, m.Parts[i].Name) }); i > 0 && at >= 0 {
			ids[i] = parts[at].ID
		}
	}
	out := make([]Charge, len(m.Regions))
	for i, r := range m.Regions {
		c := Charge{Conduit: r.Conduit, Base: r.Base}
		for _, p := range r.Parts {
			if m.Parts[p].Conduit == r.Conduit && !slices.Contains(c.IDs, ids[p]) {
				c.IDs = append(c.IDs, ids[p])
			}
		}
		if r.Conduit {
			slices.Reverse(c.IDs)
		}
		out[i] = c
	}
	return out
}

// takes reports whether a part of the rules has the part of an object with this name.
func takes(rules *policy.Rules, p policy.Part, name string) bool {
	if len(p.Symbols) > 0 {
		return name == partName(rules.Program, rules.Name(p.ID))
	}
	return p.Module(name)
}
