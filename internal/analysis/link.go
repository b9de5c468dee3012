package analysis

import (
	"path/filepath"

	"bulkhead/internal/attribution"
	"bulkhead/internal/dso"
	"bulkhead/internal/objfile"
)

// A fid names a function of the program: the object's first plus the index in
// its summary.
type fid = uint32

// A linked is one object of the program.
type linked struct {
	*Summary
	object  *dso.Object
	first   fid
	conduit bool
	bound   []binding // by import; resolved on demand
	asked   []bool
	index   int
	shared  *[2]uint64 // bounds of _rtld_global_ro, once asked for
}

// A binding is the definition that an import resolves to.
type binding struct {
	object *linked // nil: undefined
	export *Export
}

// A program is a set of summaries that are loaded together, in search order.
type program struct {
	objects  []*linked
	contents []contentHash // of the objects, with a cache only
	owner    []*linked     // by function
	defs     map[string][]binding
}

// add appends an object to the program.
func (p *program) add(o *dso.Object, s *Summary, conduits attribution.Conduits) *linked {
	l := &linked{
		Summary: s, object: o, first: fid(len(p.owner)), index: len(p.objects),
		conduit: conduits.Match(o.Path) || isNamed(o, conduits),
		bound:   make([]binding, len(s.Imports)), asked: make([]bool, len(s.Imports)),
	}
	p.objects = append(p.objects, l)
	for range s.Funcs {
		p.owner = append(p.owner, l)
	}
	for j := range s.Exports {
		e := &s.Exports[j]
		p.defs[e.Name] = append(p.defs[e.Name], binding{l, e})
	}
	return l
}

// isNamed reports whether an object is a conduit by a name that it was asked for
// under: a link's name says more than "libc.so" does.
func isNamed(o *dso.Object, conduits attribution.Conduits) bool {
	for _, name := range o.RequestedAs {
		if conduits.Match(filepath.Base(name)) {
			return true
		}
	}
	return false
}

// resolve returns the definition that import i of object l binds to.
func (p *program) resolve(l *linked, i uint32) binding {
	if !l.asked[i] || l.bound[i].object == nil {
		l.asked[i] = true
		im := &l.Imports[i]
		l.bound[i] = p.lookup(im.Name, im.Version)
	}
	return l.bound[i]
}

// lookup finds a symbol in search order. A version must match where both sides
// have one; without one, the default version is meant.
func (p *program) lookup(name, version string) binding {
	var other binding
	for _, d := range p.defs[name] {
		switch {
		case version == "" && (d.export.Version == "" || d.export.Default), version == d.export.Version:
			return d
		case d.export.Version == "":
			return d
		case version == "" && other.object == nil:
			other = d
		}
	}
	return other
}

// symbolizer reads the object's symbols. What cannot be read names nothing.
func (l *linked) symbolizer() (*objfile.File, *objfile.Symbolizer) {
	f, err := objfile.Open(l.object.Path)
	if err != nil {
		return nil, nil
	}
	defer f.Close()
	s, _ := f.Symbolizer() // with an error come the symbols that could be read
	return f, s
}
