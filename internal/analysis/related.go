package analysis

import "slices"

// A dependency says that an object opens another.
type dependency struct{ from, to *linked }

// addHome notes the object that lets f escape now.
func (r *reach) addHome(f fid) {
	switch {
	case r.cause.kind == byRoot:
	case r.cause.from == noFunc:
		r.everywhere[f] = true
	default:
		r.home(f, r.owner[r.cause.from])
	}
}

// home notes that object l has the address of f.
func (r *reach) home(f fid, l *linked) {
	if i := uint16(l.index); l != r.owner[f] && !slices.Contains(r.homes[f], i) {
		r.homes[f] = append(r.homes[f], i)
	}
}

// findRelated says of each two objects outside of conduits whether one uses the
// other, directly or through others that are no conduits.
func (c *charge) findRelated() {
	n := len(c.objects)
	uses := make([][]bool, n)
	for i, l := range c.objects {
		uses[i] = make([]bool, n)
		uses[i][i] = true
		for j := range l.Imports {
			if b := c.resolve(l, uint32(j)); b.object != nil && !b.object.conduit && !l.conduit {
				uses[i][b.object.index] = true
			}
		}
	}
	for _, d := range c.uses {
		if !d.from.conduit {
			uses[d.from.index][d.to.index] = true
		}
	}
	for k := range n {
		for i := range n {
			if uses[i][k] {
				for j := range n {
					uses[i][j] = uses[i][j] || uses[k][j]
				}
			}
		}
	}
	c.related = make([][]bool, n)
	for i := range n {
		c.related[i] = make([]bool, n)
		for j := range n {
			c.related[i][j] = uses[i][j] || uses[j][i]
		}
	}
}

// mayEnter reports whether an open call of object i may enter f: whether i is
// related to an object that has its address.
func (c *charge) mayEnter(i int, f fid) bool {
	if !c.escaped[f] || c.services[f] || c.bottom[f] || !c.enters(f) {
		return false
	}
	if l := c.owner[f]; c.everywhere[f] || c.leaks || !l.conduit && c.related[i][l.index] {
		return true
	}
	return slices.ContainsFunc(c.homes[f], func(h uint16) bool { return c.related[i][h] })
}

// enterLocal adds what f leads to to the sets of what open calls of an object may
// enter, by the objects that have f's address, and reports whether one changed.
func (c *charge) enterLocal(f fid, set *callset) bool {
	if !c.enters(f) || c.bottom[f] || c.services[f] {
		return false
	}
	n := len(c.objects)
	changed := false
	add := func(h int) { changed = c.at[h].union(set) || changed }
	if c.everywhere[f] || c.leaks {
		add(n)
	}
	if l := c.owner[f]; !l.conduit {
		add(l.index)
	}
	for _, h := range c.homes[f] {
		add(int(h))
	}
	return changed
}

// spreadLocal computes from these sets what each object's open calls may lead to.
func (c *charge) spreadLocal() {
	n := len(c.objects)
	for i := range c.local {
		c.local[i].union(&c.at[n])
		for h := range n {
			if c.related[i][h] {
				c.local[i].union(&c.at[h])
			}
		}
	}
}
