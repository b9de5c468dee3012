package supervisor

import (
	"bulkhead/internal/dso"
	"bulkhead/internal/enforce/backend"
	"bulkhead/internal/region"
)

// code is what a program image has at a mapping: an object with what the rules say of it, by region.
type code struct {
	*object
	regions *region.Map
	charges []backend.Charge // by region
}

// at returns the charge for a file offset.
func (c *code) at(offset uint64) *backend.Charge {
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

// divide finds out whom calls from an object's regions are charged to.
func (i *image) divide(obj *object) *code {
	c := &code{object: obj, regions: region.Whole(i.rules.Conduits().Match(obj.Path))}
	if obj.ELF != nil {
		// With an error some code is in the object's own region.
		c.regions, _ = region.New(obj.ELF, backend.Division(i.rules.Conduits(), i.rules.Program))
	}
	c.charges = backend.Charges(c.regions, i.rules, obj.Path)
	return c
}
