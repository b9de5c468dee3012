package inkernel

import (
	"slices"

	"bulkhead/internal/attribution"
	"bulkhead/internal/policy"
	"bulkhead/internal/region"
)

// divisionFor returns the options that divide objects into the parts that the programs
// of a policy name.
func divisionFor(p *policy.Policy) region.Options {
	var opts region.Options
	opts.Conduits, _ = attribution.NewConduits(p.Conduits...) // checked when the policy was read
	for i := range p.Programs {
		for _, c := range p.Programs[i].Compartments {
			if len(c.Symbols) == 0 {
				continue
			}
			at := slices.IndexFunc(opts.Symbols, func(s region.Symbols) bool { return s.Name == c.Name })
			if at < 0 {
				at = len(opts.Symbols)
				opts.Symbols = append(opts.Symbols, region.Symbols{Name: c.Name})
			}
			opts.Symbols[at].Patterns = append(opts.Symbols[at].Patterns, c.Symbols...)
		}
	}
	return opts
}

// assignment is what the rules for a program say of a region.
type assignment struct {
	// Compartments are those of the code, innermost first: several where code of one was
	// inlined into another's. The first is charged.
	Compartments []policy.ID
	Conduit      bool
	Base         bool
}

// assign returns the assignments of an object's regions under the rules for a program.
func assign(m *region.Map, rules *policy.Rules, path string) []assignment {
	whole, parts := rules.Compartment(path), rules.Parts(path)
	ids := make([]policy.ID, len(m.Parts))
	for i := range m.Parts {
		ids[i] = whole
		if at := slices.IndexFunc(parts, func(p policy.Part) bool { return takes(rules, p, m.Parts[i].Name) }); i > 0 && at >= 0 {
			ids[i] = parts[at].ID
		}
	}
	out := make([]assignment, len(m.Regions))
	for i, r := range m.Regions {
		a := assignment{Conduit: r.Conduit, Base: r.Base}
		for _, p := range r.Parts {
			if m.Parts[p].Conduit == r.Conduit && !slices.Contains(a.Compartments, ids[p]) {
				a.Compartments = append(a.Compartments, ids[p])
			}
		}
		if r.Conduit { // of conduits the outermost is charged
			slices.Reverse(a.Compartments)
		}
		out[i] = a
	}
	return out
}

// takes reports whether a part of the rules has the part of an object with this name.
func takes(rules *policy.Rules, p policy.Part, name string) bool {
	if len(p.Symbols) > 0 {
		return rules.Name(p.ID) == name
	}
	return p.Module(name)
}
