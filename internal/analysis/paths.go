package analysis

// unreachable is the distance of a function that cannot make a call.
const unreachable = ^uint32(0)

// A step is one frame of a witness: an instruction of a function.
type step struct {
	fn  fid
	off uint32
}

// paths finds shortest witnesses of one system call along the edges that
// attribution follows: within conduits, and over tail jumps.
type paths struct {
	*charge
	callers [][]edge     // reversed edges: to is the caller, off the instruction in it
	openers [pools][]fid // by pool: who calls into it
	in      []uint16     // by function: the pools that it is in
	passed  [pools]bool
	dist    []uint32
	next    []edge // what to follow from a function
	// entry is by object the nearest function that one of its open calls may enter,
	// jumpers are its functions with open tail jumps.
	entry   []fid
	jumpers [][]fid
	queue   []fid
}

func newPaths(c *charge) *paths {
	n := len(c.owner)
	p := &paths{charge: c, callers: make([][]edge, n), dist: make([]uint32, n), next: make([]edge, n), in: make([]uint16, n)}
	for f := range c.edges {
		for _, e := range c.edges[f] {
			if c.edgeThrough(fid(f), e) {
				p.callers[e.to] = append(p.callers[e.to], edge{fid(f), e.off, e.tail})
			}
		}
	}
	p.entry, p.jumpers = make([]fid, len(c.objects)), make([][]fid, len(c.objects))
	for f := range c.open {
		if !c.reached[f] {
			continue
		}
		if l := c.owner[f]; !l.conduit && c.open[f] && c.openTail(fid(f)) {
			p.jumpers[l.index] = append(p.jumpers[l.index], fid(f))
		}
		in, from := c.inPools(fid(f)), c.callsPools(fid(f))
		p.in[f] = in
		for i := range pools {
			if from>>i&1 != 0 {
				p.openers[i] = append(p.openers[i], fid(f))
			}
		}
		for _, to := range c.tables[fid(f)] {
			p.callers[to] = append(p.callers[to], edge{fid(f), p.openSite(fid(f)), false})
		}
	}
	return p
}

// search computes, for every function, its distance from an instruction that
// makes call i.
func (p *paths) search(i int) {
	for f := range p.dist {
		p.dist[f] = unreachable
	}
	for i := range p.entry {
		p.entry[i] = noFunc
	}
	p.queue = p.queue[:0]
	p.passed = [pools]bool{}
	for f := range p.own {
		if p.own[f].has(i) && p.owner[f].conduit {
			p.visit(fid(f), 0, edge{})
		}
	}
	for at := 0; at < len(p.queue); at++ {
		f := p.queue[at]
		for _, e := range p.callers[f] {
			if p.takes[f] != 0 && p.dist[f] == 0 && !p.fixed[f].has(i) {
				if n := p.numbersAt(e.to, edge{to: f, off: e.off}); !n.has(i) {
					continue
				}
			}
			p.visit(e.to, p.dist[f]+1, edge{f, e.off, e.tail})
		}
		p.enter(f)
		for i := range pools {
			if p.passed[i] || p.in[f]>>i&1 == 0 {
				continue
			}
			p.passed[i] = true
			for _, o := range p.openers[i] {
				p.visit(o, p.dist[f]+1, edge{to: f, off: p.openSite(o)})
			}
		}
	}
}

// enter goes on from f, which was visited, to the open calls outside of conduits
// that may enter it.
func (p *paths) enter(f fid) {
	if !p.escaped[f] {
		return
	}
	for i := range p.entry {
		if p.entry[i] != noFunc || !p.mayEnter(i, f) {
			continue
		}
		p.entry[i] = f
		for _, o := range p.jumpers[i] {
			p.visit(o, p.dist[f]+1, edge{to: f, off: p.openSite(o)})
		}
	}
}

func (p *paths) visit(f fid, dist uint32, next edge) {
	if p.dist[f] != unreachable {
		return
	}
	p.dist[f], p.next[f] = dist, next
	p.queue = append(p.queue, f)
}

// from returns the frames from function f down to the instruction, outermost
// first. The search must have found f.
func (p *paths) from(f fid, i int) []step {
	var out []step
	for {
		if p.own[f].has(i) && p.dist[f] == 0 {
			return append(out, step{f, p.siteOf(f, i)})
		}
		e := p.next[f]
		out = append(out, step{f, e.off})
		f = e.to
	}
}

// siteOf returns the instruction of function f that makes call i.
func (p *paths) siteOf(f fid, i int) uint32 {
	for _, x := range p.numbers[f] {
		if numberOf(x) == p.calls[i] {
			return x.off
		}
	}
	return 0
}

// openSite returns an open call of function f.
func (p *paths) openSite(f fid) uint32 {
	l := p.owner[f]
	for _, c := range l.calls(f - l.first) {
		if c.Kind == CallIndirect {
			return c.Off
		}
	}
	return 0
}

// witness returns a shortest path from the object's code to call i, outermost
// first, or nil. The search for i must have been done.
func (p *paths) witness(o *origin, i int) []step {
	if f, ok := o.direct[i]; ok {
		return []step{{f, p.siteOf(f, i)}}
	}
	best := uint32(unreachable)
	var first []step
	next := noFunc
	consider := func(to fid, steps ...step) {
		// Equal ones are told apart by function, so that runs agree.
		if d := p.dist[to]; d < best || d == best && d != unreachable && to < next {
			best, next, first = d, to, steps
		}
	}
	for to, s := range o.exits {
		if p.through[to].has(i) {
			consider(to, s)
		}
	}
	if h, ok := o.handed[i]; ok {
		consider(h.to, h.at)
	}
	for _, f := range o.bottoms {
		consider(f)
	}
	if entry := p.entry[o.object.index]; o.opener != noFunc && entry != noFunc && p.dist[entry] < best {
		consider(entry, step{o.opener, p.openSite(o.opener)})
	}
	if next == noFunc {
		return nil
	}
	return append(first, p.from(next, i)...)
}
