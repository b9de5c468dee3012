package supervisor

import (
	"slices"
	"strconv"

	"bulkhead/internal/dso"
	"bulkhead/internal/policy"
	"bulkhead/internal/region"
)

// code is what a program image has at a mapping: an object with what the rules say of it, by region.
type code struct {
	*object
	regions *region.Map
	charges []charge // by region
}

// charge is whom calls from a region are charged to.
type charge struct {
	ids     []policy.ID // innermost first: several where code of one part was inlined into another
	conduit bool
	base    bool // says nothing about who made a call: see region.Region
}

// at returns the charge for a file offset.
func (c *code) at(offset uint64) *charge {
	if len(c.charges) == 1 {
		return &c.charges[0]
	}
	return &c.charges[c.regions.Region(offset)]
}

// code returns what the image's rules say of a mapping.
func (i *image) code(tid int, m *dso.Mapping) *code {
	obj := i.objects.of(tid, m)
	c := i.codes[obj]
	if c == nil {
		c = i.divide(obj)
		i.codes[obj] = c
	}
	return c
}

// divide finds the compartments of an object's regions.
func (i *image) divide(obj *object) *code {
	parts := i.rules.Parts(obj.Path)
	c := &code{object: obj, regions: region.Whole(i.rules.Conduits().Match(obj.Path))}
	if obj.ELF != nil {
		// With an error some code is in the object's own region.
		c.regions, _ = region.New(obj.ELF, region.Options{Symbols: symbolParts(parts), Conduits: i.rules.Conduits()})
	}
	ids := make([]policy.ID, len(c.regions.Parts))
	for n, p := range c.regions.Parts {
		ids[n] = i.compartment(obj, parts, p)
	}
	for r := range c.regions.Regions {
		c.charges = append(c.charges, chargeOf(c.regions, uint16(r), ids))
	}
	return c
}

// symbolParts hands the parts that are made by function names on, each under its number.
func symbolParts(parts []policy.Part) []region.Symbols {
	var out []region.Symbols
	for n, p := range parts {
		if len(p.Symbols) > 0 {
			out = append(out, region.Symbols{Name: symbolPart + strconv.Itoa(n), Patterns: p.Symbols})
		}
	}
	return out
}

// symbolPart begins the names of the parts of symbolParts. No module has it.
const symbolPart = "\x00"

func (i *image) compartment(obj *object, parts []policy.Part, p region.Part) policy.ID {
	for n, claimed := range parts {
		if p.Name == symbolPart+strconv.Itoa(n) || p.Name != "" && len(claimed.Modules) > 0 && claimed.Module(p.Name) {
			return claimed.ID
		}
	}
	return i.rules.Compartment(obj.Path)
}

func chargeOf(m *region.Map, r uint16, ids []policy.ID) charge {
	of := &m.Regions[r]
	c := charge{conduit: of.Conduit, base: of.Base}
	for _, p := range of.Parts {
		if (of.Conduit || !m.Parts[p].Conduit) && !slices.Contains(c.ids, ids[p]) {
			c.ids = append(c.ids, ids[p])
		}
	}
	if of.Conduit { // one that is charged is so as a whole: with the function that holds the code
		c.ids = []policy.ID{ids[m.Origin(r)]}
	}
	return c
}
