package attribution

import (
	"cmp"
	"slices"
	"strings"
)

// Merge makes one document of several valid ones: counts are summed, evidence,
// vias, chains and losses united. Programs with the same path, build id and
// architecture become one, at the place of the first. Apart from that order
// the result does not depend on the order or grouping of merges. Where objects
// of several documents now share a file name, they and the compartments named
// after them get the longer unique names.
func Merge(docs ...*Document) *Document {
	var order []programKey
	images := make(map[programKey][]*Program)
	for _, d := range docs {
		for i := range d.Programs {
			p := &d.Programs[i]
			key := programKey{p.Path, p.BuildID, p.Arch}
			if images[key] == nil {
				order = append(order, key)
			}
			images[key] = append(images[key], p)
		}
	}
	out := &Document{Schema: Schema, Programs: make([]Program, 0, len(order))}
	for _, key := range order {
		out.Programs = append(out.Programs, mergePrograms(images[key]))
	}
	out.canonicalize()
	return out
}

// mergePrograms concatenates under common names; canonicalize does the rest.
func mergePrograms(images []*Program) Program {
	first := images[0]
	final := commonNames(images)
	out := Program{Path: first.Path, BuildID: first.BuildID, Arch: first.Arch}
	for _, p := range images {
		renamed := make(map[string]string, len(p.Objects))
		for _, o := range p.Objects {
			renamed[o.Name] = final[objectKey{o.Path, o.BuildID}]
		}
		appendRenamed(&out, p, func(name string) string {
			if n, ok := renamed[name]; ok {
				return n
			}
			return name
		})
	}
	return out
}

func commonNames(images []*Program) map[objectKey]string {
	final := make(map[objectKey]string)
	var keys []objectKey
	for _, p := range images {
		for _, o := range p.Objects {
			key := objectKey{o.Path, o.BuildID}
			if _, ok := final[key]; !ok {
				final[key] = ""
				keys = append(keys, key)
			}
		}
	}
	for i, name := range uniqueNames(keys) {
		final[keys[i]] = name
	}
	return final
}

// appendRenamed adds a deep copy of p to out.
func appendRenamed(out, p *Program, rename func(string) string) {
	frames := func(in []Frame) []Frame {
		fs := slices.Clone(in)
		for i := range fs {
			fs[i].Object = rename(fs[i].Object)
		}
		return fs
	}
	for _, o := range p.Objects {
		o.Name, o.Compartment, o.Parts = rename(o.Name), rename(o.Compartment), slices.Clone(o.Parts)
		out.Objects = append(out.Objects, o)
	}
	for _, c := range p.Compartments {
		calls := slices.Clone(c.Syscalls)
		for i := range calls {
			s := &calls[i]
			s.Evidence, s.Via, s.Example = slices.Clone(s.Evidence), slices.Clone(s.Via), frames(s.Example)
		}
		out.Compartments = append(out.Compartments, Compartment{rename(c.Name), calls})
	}
	for _, ch := range p.Chains {
		compartments := slices.Clone(ch.Compartments)
		for i := range compartments {
			compartments[i] = rename(compartments[i])
		}
		out.Chains = append(out.Chains, Chain{compartments, slices.Clone(ch.Syscalls)})
	}
	l := p.Losses
	l.UnresolvedSites, l.OpenEnds = frames(l.UnresolvedSites), slices.Clone(l.OpenEnds)
	for i := range l.OpenEnds {
		l.OpenEnds[i].Object = rename(l.OpenEnds[i].Object)
	}
	out.Losses.join(&l)
}

func (l *Losses) join(m *Losses) {
	l.LostEvents = sum(l.LostEvents, m.LostEvents)
	l.Unattributed = sum(l.Unattributed, m.Unattributed)
	l.BrokenStacks = sum(l.BrokenStacks, m.BrokenStacks)
	l.UnresolvedSites = append(l.UnresolvedSites, m.UnresolvedSites...)
	l.OpenEnds = append(l.OpenEnds, m.OpenEnds...)
}

// canonicalize sorts every list, unites equal entries, makes nil lists empty
// and computes what is derived: unions and completeness.
func (d *Document) canonicalize() {
	if d.Programs == nil {
		d.Programs = []Program{}
	}
	for i := range d.Programs {
		d.Programs[i].canonicalize()
	}
}

func (p *Program) canonicalize() {
	p.Objects = fold(p.Objects, func(a, b Object) int { return cmp.Compare(a.Name, b.Name) }, joinObjects)
	for i := range p.Objects {
		p.Objects[i].Parts = fold(p.Objects[i].Parts, func(a, b Part) int { return cmp.Compare(a.Name, b.Name) }, joinParts)
	}
	p.Compartments = fold(p.Compartments,
		func(a, b Compartment) int { return cmp.Compare(a.Name, b.Name) },
		func(a, b *Compartment) { a.Syscalls = append(a.Syscalls, b.Syscalls...) })
	for i := range p.Compartments {
		p.Compartments[i].canonicalize()
	}
	p.Chains = fold(p.Chains,
		func(a, b Chain) int { return slices.Compare(a.Compartments, b.Compartments) },
		func(a, b *Chain) { a.Syscalls = append(a.Syscalls, b.Syscalls...) })
	for i := range p.Chains {
		p.Chains[i].Syscalls = sortedSet(p.Chains[i].Syscalls)
	}
	p.Losses.UnresolvedSites = fold(p.Losses.UnresolvedSites, compareFrames, nil)
	p.Losses.OpenEnds = fold(p.Losses.OpenEnds, compareOpenEnds, nil)
	p.Union = p.union()
	p.Complete = p.Losses.None()
}

func (c *Compartment) canonicalize() {
	for i := range c.Syscalls {
		s := &c.Syscalls[i]
		s.Evidence, s.Via = sortedSet(s.Evidence), sortedSet(s.Via)
		if s.Example == nil {
			s.Example = []Frame{}
		}
	}
	c.Syscalls = fold(c.Syscalls, compareSyscalls, joinSyscalls)
}

func (p *Program) union() []string {
	var u []string
	for i := range p.Compartments {
		for _, s := range p.Compartments[i].Syscalls {
			u = append(u, s.Label(p.Arch))
		}
	}
	return sortedSet(u)
}

// joinObjects prefers a compartment that somebody chose to the default one.
func joinObjects(a, b *Object) {
	a.Conduit = a.Conduit || b.Conduit
	a.Parts = append(a.Parts, b.Parts...)
	switch {
	case a.Compartment == a.Name:
		a.Compartment = b.Compartment
	case b.Compartment != b.Name:
		a.Compartment = min(a.Compartment, b.Compartment)
	}
}

func joinParts(a, b *Part) {
	a.Conduit = a.Conduit || b.Conduit
	a.Version = max(a.Version, b.Version)
}

func joinSyscalls(a, b *Syscall) {
	a.Count = sum(a.Count, b.Count)
	a.Evidence = sortedSet(append(a.Evidence, b.Evidence...))
	a.Via = sortedSet(append(a.Via, b.Via...))
	if len(a.Example) == 0 || len(b.Example) > 0 && compareExamples(a.Example, b.Example) > 0 {
		a.Example = b.Example
	}
}

func compareSyscalls(a, b Syscall) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ABI, b.ABI), cmp.Compare(a.NR, b.NR))
}

// compareExamples prefers the shorter stack, which is easier to read.
func compareExamples(a, b []Frame) int {
	return cmp.Or(len(a)-len(b), slices.CompareFunc(a, b, compareFrames))
}

func compareFrames(a, b Frame) int {
	return cmp.Or(strings.Compare(a.Object, b.Object), strings.Compare(a.Function, b.Function), cmp.Compare(a.Offset, b.Offset))
}

func compareOpenEnds(a, b OpenEnd) int {
	return cmp.Or(compareFrames(Frame{a.Object, a.Function, a.Offset}, Frame{b.Object, b.Function, b.Offset}),
		strings.Compare(a.Reason, b.Reason))
}

// fold sorts s and joins entries that compare equal; a nil join drops all but
// the first.
func fold[T any](s []T, compare func(a, b T) int, join func(a, b *T)) []T {
	slices.SortStableFunc(s, compare)
	out := s[:0]
	for i := range s {
		if n := len(out); n > 0 && compare(out[n-1], s[i]) == 0 {
			if join != nil {
				join(&out[n-1], &s[i])
			}
			continue
		}
		out = append(out, s[i])
	}
	if out == nil {
		return []T{}
	}
	return out
}

func sortedSet[T cmp.Ordered](s []T) []T {
	return fold(s, cmp.Compare[T], nil)
}
