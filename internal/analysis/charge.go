package analysis

import (
	"math/bits"
	"sort"
	"strings"

	"bulkhead/internal/syscalls"
)

// A callset is a set of system calls, by index into charge.calls.
type callset [8]uint64

func (s *callset) add(i int)      { s[i>>6] |= 1 << (i & 63) }
func (s *callset) has(i int) bool { return s[i>>6]>>(i&63)&1 != 0 }
func (s *callset) len() (n int) {
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// union adds o and reports whether s changed.
func (s *callset) union(o *callset) bool {
	changed := false
	for i := range s {
		if w := s[i] | o[i]; w != s[i] {
			s[i] = w
			changed = true
		}
	}
	return changed
}

func (s *callset) each(f func(i int)) {
	for w, b := range s {
		for ; b != 0; b &= b - 1 {
			f(w*64 + bits.TrailingZeros64(b))
		}
	}
}

// A sysno is a system call in the table that its instruction uses.
type sysno struct {
	abi syscalls.ABI
	nr  int
}

// A charge says for every reached function which system calls can happen while
// it runs, in the ways that attribution tells apart.
type charge struct {
	*reach
	calls []sysno // sorted
	index map[sysno]int
	own   []callset // by function: its own instructions
	leaks bool

	// through is, for a function of a conduit, what can happen below it without
	// another compartment's frame in between: it is charged to the caller. For a
	// function of another compartment it is what can happen below its tail jumps,
	// which leave no frame of it.
	through []callset
	// below is all that can happen below a function.
	below []callset
	// throughOpen and belowOpen are the unions over the functions that an open
	// call may enter; throughPublic is over those that one outside of conduits may.
	throughOpen, belowOpen, throughPublic callset
}

func newCharge(r *reach) *charge {
	c := &charge{reach: r, index: map[sysno]int{}, own: make([]callset, len(r.owner))}
	for _, list := range r.numbers {
		for _, x := range list {
			no := numberOf(x)
			if _, ok := c.index[no]; !ok {
				c.index[no] = 0
				c.calls = append(c.calls, no)
			}
		}
	}
	sort.Slice(c.calls, func(i, j int) bool {
		if c.calls[i].abi != c.calls[j].abi {
			return c.calls[i].abi < c.calls[j].abi
		}
		return c.calls[i].nr < c.calls[j].nr
	})
	if len(c.calls) > len(callset{})*64 {
		c.calls = c.calls[:len(callset{})*64] // more than any kernel has
	}
	for i, no := range c.calls {
		c.index[no] = i
	}
	for f, list := range r.numbers {
		for _, x := range list {
			if i := c.index[numberOf(x)]; c.calls[i] == numberOf(x) {
				c.own[f].add(i)
			}
		}
	}
	c.leaks = r.leaks()
	c.through = c.solve(c.startThrough, c.edgeThrough, &c.throughOpen, &c.throughPublic)
	c.below = c.solve(
		func(f fid) callset { return c.own[f] },
		func(fid, edge) bool { return true }, &c.belowOpen, &c.belowOpen)
	return c
}

// leaks reports whether the C library hands pointers to its private functions to
// its users: the tables of Sun RPC's clients, servers and XDR streams are called
// by macros. Nothing else in it does.
func (r *reach) leaks() bool {
	for _, l := range r.objects {
		if l.conduit {
			continue
		}
		for i := range l.Imports {
			name := l.Imports[i].Name
			if !strings.HasPrefix(name, "xdr") && !strings.HasPrefix(name, "clnt") && !strings.HasPrefix(name, "svc") {
				continue
			}
			if b := r.resolve(l, uint32(i)); b.object != nil && b.object.conduit {
				return true
			}
		}
	}
	return false
}

// enters reports whether an open call outside of conduits may enter f.
func (c *charge) enters(f fid) bool {
	return c.public[f] || c.leaks || !c.owner[f].conduit
}

func numberOf(x numbered) sysno {
	switch {
	case x.abi == SiteI386:
		return sysno{syscalls.I386, x.nr}
	case x.nr&syscalls.X32Bit != 0:
		return sysno{syscalls.X32, x.nr &^ syscalls.X32Bit}
	}
	return sysno{syscalls.AMD64, x.nr}
}

func (c *charge) startThrough(f fid) callset {
	if c.owner[f].conduit {
		return c.own[f]
	}
	return callset{}
}

// edgeThrough reports whether what happens below e is charged to f's caller.
func (c *charge) edgeThrough(f fid, e edge) bool { return c.owner[f].conduit || e.tail }

// solve propagates sets from callees to callers over the edges that pass, to the
// least fixed point. Open calls see the union over all escaped functions.
func (c *charge) solve(start func(fid) callset, pass func(fid, edge) bool, open, public *callset) []callset {
	sets := make([]callset, len(c.owner))
	order := make([]fid, 0, len(c.owner))
	for f := range sets {
		if c.reached[f] {
			sets[f] = start(fid(f))
			order = append(order, fid(f))
		}
	}
	passes := func(f fid) bool { return pass(f, edge{tail: c.openTail(f)}) }
	for changed := true; changed; {
		changed = false
		for i := len(order) - 1; i >= 0; i-- {
			f := order[i]
			for _, e := range c.edges[f] {
				if pass(f, e) && sets[f].union(&sets[e.to]) {
					changed = true
				}
			}
			if c.open[f] && passes(f) {
				from := open
				if !c.owner[f].conduit {
					from = public
				}
				changed = sets[f].union(from) || changed
			}
			if c.escaped[f] {
				changed = open.union(&sets[f]) || changed
				if c.enters(f) {
					changed = public.union(&sets[f]) || changed
				}
			}
		}
	}
	return sets
}

// openTail reports whether one of f's open calls is a tail jump.
func (c *charge) openTail(f fid) bool {
	l := c.owner[f]
	i := f - l.first
	for _, call := range l.calls(i) {
		if call.Kind == CallIndirect && call.Tail {
			return true
		}
	}
	return false
}

// An origin is what one compartment is charged with.
type origin struct {
	object *linked
	set    callset
	via    map[int]map[fid]bool // by call: the conduit functions called
	chain  callset
	// bottoms are the functions of a conduit that are the outer end of stacks.
	bottoms []fid
}

// origins charges every object.
func (c *charge) origins() []origin {
	out := make([]origin, len(c.objects))
	for i, l := range c.objects {
		o := &out[i]
		o.object, o.via = l, map[int]map[fid]bool{}
		for j := range l.Funcs {
			f := l.first + fid(j)
			if !c.reached[f] {
				continue
			}
			o.chain.union(&c.below[f])
			if !l.conduit {
				c.chargeFunction(o, f)
			}
		}
		if l.conduit {
			c.chargeConduit(o)
		}
	}
	return out
}

// chargeFunction charges an object for one of its functions: its own
// instructions, and all that happens below its calls without a frame of another
// compartment in between.
func (c *charge) chargeFunction(o *origin, f fid) {
	o.set.union(&c.own[f])
	for _, e := range c.edges[f] {
		through := &c.through[e.to]
		o.set.union(through)
		if c.owner[e.to].conduit {
			through.each(func(i int) { o.addVia(i, e.to) })
		}
	}
	if c.open[f] {
		o.set.union(&c.throughPublic)
	}
	if o.object.BindLazy {
		for _, g := range c.lazyResolvers() {
			o.set.union(&c.through[g])
			c.through[g].each(func(i int) { o.addVia(i, g) })
		}
	}
}

func (o *origin) addVia(call int, f fid) {
	if o.via[call] == nil {
		o.via[call] = map[fid]bool{}
	}
	o.via[call][f] = true
}

// chargeConduit charges a conduit for the stacks that it is the outer end of:
// the loader's from the kernel's entry on, and those that a clone starts in it.
func (c *charge) chargeConduit(o *origin) {
	l := o.object
	if l.object.Interp && l.Entry != none {
		o.bottoms = append(o.bottoms, l.first+l.Entry)
	}
	clones := []sysno{{syscalls.AMD64, 56}, {syscalls.AMD64, 435}}
	for j := range l.Funcs {
		f := l.first + fid(j)
		for _, no := range clones {
			if i, ok := c.index[no]; ok && c.reached[f] && c.own[f].has(i) {
				o.bottoms = append(o.bottoms, f)
				break
			}
		}
	}
	for _, f := range o.bottoms {
		o.set.union(&c.through[f])
	}
}

// chargeRest charges calls that no compartment has yet to the object of their
// instruction, so that none is left out.
func (c *charge) chargeRest(origins []origin) {
	var all callset
	for i := range origins {
		all.union(&origins[i].set)
	}
	for f := range c.own {
		c.own[f].each(func(i int) {
			if !all.has(i) {
				l := c.owner[f]
				o := &origins[l.index]
				o.set.add(i)
				o.bottoms = append(o.bottoms, fid(f))
			}
		})
	}
}

// lazyResolvers are the entries of the loader that a first call through the
// linkage table goes to.
func (c *charge) lazyResolvers() []fid {
	var out []fid
	for _, l := range c.objects {
		if !l.object.Interp {
			continue
		}
		for _, f := range l.Lazy {
			if c.reached[l.first+f] {
				out = append(out, l.first+f)
			}
		}
	}
	return out
}
