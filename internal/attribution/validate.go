package attribution

import (
	"fmt"
	"slices"
)

// Validate checks what the types cannot say: names are there and unique, values
// are of the enumerations, references lead somewhere, and what is derived is
// right. The order of lists is not checked: Write sorts.
func (d *Document) Validate() error {
	if d.Schema != Schema {
		return schemaError(d.Schema)
	}
	if d.Programs == nil {
		return fmt.Errorf("programs: missing or null")
	}
	seen := make(map[programKey]bool)
	for i := range d.Programs {
		p := &d.Programs[i]
		key := programKey{p.Path, p.BuildID, p.Arch}
		if seen[key] {
			return fmt.Errorf("programs[%d]: %s occurs twice", i, p.Path)
		}
		seen[key] = true
		if err := p.validate(); err != nil {
			return fmt.Errorf("programs[%d] (%s): %w", i, p.Path, err)
		}
	}
	return nil
}

func (p *Program) validate() error {
	switch {
	case p.Path == "":
		return fmt.Errorf("path: empty")
	case !p.Arch.valid():
		return fmt.Errorf("arch: %q is not amd64, i386, x32 or arm64", p.Arch)
	case p.Objects == nil:
		return missing("objects")
	case p.Compartments == nil:
		return missing("compartments")
	case p.Chains == nil:
		return missing("chains")
	case p.Union == nil:
		return missing("union")
	}
	objects, err := p.validateObjects()
	if err != nil {
		return err
	}
	if err := p.validateCompartments(objects); err != nil {
		return err
	}
	if err := p.validateChains(); err != nil {
		return err
	}
	if err := p.Losses.validate(objects); err != nil {
		return fmt.Errorf("losses: %w", err)
	}
	if !slices.Equal(sortedSet(slices.Clone(p.Union)), p.union()) {
		return fmt.Errorf("union: is not the union of the compartments' system calls")
	}
	if p.Complete != p.Losses.None() {
		return fmt.Errorf("complete: is %t, but the losses say %t", p.Complete, p.Losses.None())
	}
	return nil
}

func missing(field string) error { return fmt.Errorf("%s: missing or null", field) }

func (p *Program) validateObjects() (map[string]bool, error) {
	names := make(map[string]bool, len(p.Objects))
	keys := make(map[objectKey]bool, len(p.Objects))
	for i, o := range p.Objects {
		key := objectKey{o.Path, o.BuildID}
		switch {
		case o.Name == "" || o.Path == "" || o.Compartment == "":
			return nil, fmt.Errorf("objects[%d]: name, path or compartment is empty", i)
		case names[o.Name]:
			return nil, fmt.Errorf("objects[%d]: the name %s occurs twice", i, o.Name)
		case keys[key]:
			return nil, fmt.Errorf("objects[%d]: %s with build id %q occurs twice", i, o.Path, o.BuildID)
		}
		for j, part := range o.Parts {
			if part.Name == "" {
				return nil, fmt.Errorf("objects[%d] (%s): parts[%d]: name: empty", i, o.Name, j)
			}
		}
		names[o.Name], keys[key] = true, true
	}
	return names, nil
}

func (p *Program) validateCompartments(objects map[string]bool) error {
	names := make(map[string]bool, len(p.Compartments))
	for i, c := range p.Compartments {
		switch {
		case c.Name == "":
			return fmt.Errorf("compartments[%d]: name: empty", i)
		case names[c.Name]:
			return fmt.Errorf("compartments[%d]: the name %s occurs twice", i, c.Name)
		case c.Syscalls == nil:
			return fmt.Errorf("compartments[%d] (%s): %w", i, c.Name, missing("syscalls"))
		}
		names[c.Name] = true
		calls := make(map[Call]bool, len(c.Syscalls))
		for j, s := range c.Syscalls {
			key := Call{s.ABI, s.NR, s.Name}
			if calls[key] {
				return fmt.Errorf("compartments[%d] (%s): %s occurs twice", i, c.Name, s.Name)
			}
			calls[key] = true
			if err := s.validate(objects); err != nil {
				return fmt.Errorf("compartments[%d] (%s): syscalls[%d] (%s): %w", i, c.Name, j, s.Name, err)
			}
		}
	}
	return nil
}

func (s *Syscall) validate(objects map[string]bool) error {
	switch {
	case s.Name == "":
		return fmt.Errorf("name: empty")
	case !s.ABI.valid():
		return fmt.Errorf("abi: %q is not amd64, i386, x32 or arm64", s.ABI)
	case len(s.Evidence) == 0:
		return fmt.Errorf("evidence: missing or empty")
	case s.Via == nil:
		return missing("via")
	case s.Example == nil:
		return missing("example")
	case s.Count > 0 && !slices.Contains(s.Evidence, Traced):
		return fmt.Errorf("count: is %d, but the evidence is not %q", s.Count, Traced)
	}
	for _, e := range s.Evidence {
		if !slices.Contains(kinds, e) {
			return fmt.Errorf("evidence: %q is not static or traced", e)
		}
	}
	return validateFrames("example", s.Example, objects)
}

func validateFrames(field string, frames []Frame, objects map[string]bool) error {
	for i, f := range frames {
		if !objects[f.Object] {
			return fmt.Errorf("%s[%d]: there is no object %q", field, i, f.Object)
		}
	}
	return nil
}

func (p *Program) validateChains() error {
	for i, ch := range p.Chains {
		switch {
		case len(ch.Compartments) == 0:
			return fmt.Errorf("chains[%d]: compartments: missing or empty", i)
		case ch.Syscalls == nil:
			return fmt.Errorf("chains[%d]: %w", i, missing("syscalls"))
		case p.Compartment(ch.Compartments[0]) == nil:
			return fmt.Errorf("chains[%d]: there is no compartment %q that makes calls", i, ch.Compartments[0])
		}
	}
	return nil
}

func (l *Losses) validate(objects map[string]bool) error {
	if l.UnresolvedSites == nil {
		return missing("unresolved_sites")
	}
	if l.OpenEnds == nil {
		return missing("open_ends")
	}
	for i, e := range l.OpenEnds {
		if !objects[e.Object] {
			return fmt.Errorf("open_ends[%d]: there is no object %q", i, e.Object)
		}
		if e.Reason == "" {
			return fmt.Errorf("open_ends[%d]: reason: empty", i)
		}
	}
	return validateFrames("unresolved_sites", l.UnresolvedSites, objects)
}

func (a ABI) valid() bool { return slices.Contains(abis, a) }
