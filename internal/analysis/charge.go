package analysis

import (
	"math/bits"
	"slices"
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
	fixed []callset // those whose number is not handed over
	takes map[fid]uint32
	leaks bool
	only  []bool // by function: its open calls enter what its callers hand over

	// through is, for a function of a conduit, what can happen below it without
	// another compartment's frame in between: it is charged to the caller. For a
	// function of another compartment it is what can happen below its tail jumps,
	// which leave no frame of it.
	through []callset
	// below is all that can happen below a function.
	below []callset
	// pools are the unions over the functions that calls through pointers may
	// enter, by who calls.
	pools [pools]callset
	// related says of two objects that one uses the other. local is by object what
	// its open calls may lead to, at by object what those functions lead to whose
	// address it has; the last is for addresses that anyone may have.
	related   [][]bool
	local, at []callset
	// tables are, for functions of glibc with open calls, the private functions in
	// the tables that they name.
	tables      map[fid][]fid
	exits       []bool       // by function: calls what is registered for exit
	services    []bool       // by function: a name service
	dispatchers []bool       // by function: looks name services up
	named       map[fid]bool // by dispatcher: enters the name services' functions that it or its callers name
	finalizes   map[fid]bool // calls what one object has registered
	allocates   map[fid]bool // allocators, which others are given to use
	bottom      map[fid]bool // outermost functions of threads
	starts      []bool       // by function: what the loader calls: initialisers, finalisers, resolvers, entries
}

func newCharge(r *reach) *charge {
	c := &charge{reach: r, index: map[sysno]int{}, own: make([]callset, len(r.owner))}
	for _, edges := range r.edges {
		slices.SortFunc(edges, func(a, b edge) int {
			if a.off != b.off {
				return int(a.off) - int(b.off)
			}
			return int(a.to) - int(b.to)
		})
	}
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
	c.findTakers()
	c.leaks = r.leaks()
	c.only = r.callOnlyArguments()
	c.findServices()
	c.allocates, c.bottom = map[fid]bool{}, map[fid]bool{}
	for _, f := range c.allocators() {
		c.allocates[f] = true
	}
	for f, list := range c.guards {
		if slices.ContainsFunc(list, func(g *guard) bool { return g.Bottom }) {
			c.bottom[f] = true
		}
	}
	c.findStarts()
	c.findTables()
	c.dispatch()
	c.findRelated()
	c.local, c.at = make([]callset, len(c.objects)), make([]callset, len(c.objects)+1)
	c.through = c.solve()
	c.solveBelow()
	return c
}

// findServices finds glibc's own name services, which are called by the functions
// that look them up and by no others, and these functions.
func (c *charge) findServices() {
	c.services, c.dispatchers = make([]bool, len(c.owner)), make([]bool, len(c.owner))
	lookups := map[fid]bool{}
	for _, l := range c.objects {
		if !l.conduit {
			continue
		}
		for i := range l.Exports {
			e := &l.Exports[i]
			switch {
			case e.Kind != ExportFunc:
			case strings.HasPrefix(e.Name, "_nss_"):
				c.services[l.first+e.Func] = true
			case strings.HasPrefix(e.Name, "__nss_"):
				lookups[l.first+e.Func] = true
			}
		}
	}
	c.exits, c.finalizes = make([]bool, len(c.owner)), map[fid]bool{}
	for _, name := range exitNames {
		for _, d := range c.defs[name] {
			if d.export.Kind != ExportFunc || !d.object.conduit {
				continue
			}
			f := d.object.first + d.export.Func
			if name == "__cxa_finalize" {
				c.finalizes[f] = true
				continue
			}
			c.exits[f] = true
			for _, e := range c.edges[f] {
				c.exits[e.to] = true
			}
		}
	}
	for f := range c.edges {
		if lookups[fid(f)] || slices.ContainsFunc(c.edges[f], func(e edge) bool { return lookups[e.to] }) {
			c.dispatchers[f] = true
		}
	}
}

// mangles reports whether glibc may keep the address of f mangled, other than to
// call it at exit: functions found by dlsym, and its own character conversions,
// which call the next one in the same way.
func (c *charge) mangles(f fid) bool {
	return c.lookedUp[f] || c.owner[f].conduit && c.guardedCalls[f]
}

// rpcPrefixes start the names of Sun RPC's functions.
var rpcPrefixes = []string{"xdr", "clnt", "svc", "auth", "_authenticate", "callrpc", "registerrpc", "pmap_", "key_", "xprt_", "rtime"}

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
			if !slices.ContainsFunc(rpcPrefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
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

// edgeThrough reports whether what happens below e is charged to f's caller.
func (c *charge) edgeThrough(f fid, e edge) bool { return c.owner[f].conduit || e.tail }

// solve computes through: it propagates sets from callees to callers to the least
// fixed point, and from the members of pools to those who call into them.
func (c *charge) solve() []callset {
	sets := make([]callset, len(c.owner))
	var order []fid
	in := make([]uint16, len(c.owner))
	from := make([]uint16, len(c.owner))
	for f := range sets {
		if !c.reached[f] {
			continue
		}
		f := fid(f)
		if c.owner[f].conduit {
			sets[f] = c.fixed[f]
		}
		for _, e := range c.edges[f] {
			if c.takes[e.to] != 0 && c.edgeThrough(f, e) {
				n := c.numbersAt(f, e)
				sets[f].union(&n)
			}
		}
		if c.owner[f].conduit || c.escaped[f] || c.hasTail(f) {
			order = append(order, f)
			in[f], from[f] = c.inPools(f), c.callsPools(f)
		}
	}
	for changed := true; changed; {
		changed = false
		c.spreadLocal()
		for _, f := range slices.Backward(order) {
			for _, e := range c.edges[f] {
				if c.edgeThrough(f, e) && sets[f].union(&sets[e.to]) {
					changed = true
				}
			}
			for _, to := range c.tables[f] {
				changed = sets[f].union(&sets[to]) || changed
			}
			for i := range pools {
				if from[f]>>i&1 != 0 {
					changed = sets[f].union(&c.pools[i]) || changed
				}
			}
			for i := range pools {
				if in[f]>>i&1 != 0 {
					if c.takes[f] != 0 {
						changed = c.pools[i].union(&c.own[f]) || changed
					}
					changed = c.pools[i].union(&sets[f]) || changed
				}
			}
			if l := c.owner[f]; !l.conduit && c.open[f] && c.openTail(f) {
				changed = sets[f].union(&c.local[l.index]) || changed
			}
			if c.escaped[f] {
				changed = c.enterLocal(f, &sets[f]) || changed
			}
		}
	}
	return sets
}

// hasTail reports whether f has a tail jump.
func (c *charge) hasTail(f fid) bool {
	return slices.ContainsFunc(c.edges[f], func(e edge) bool { return e.tail }) || c.open[f] && c.openTail(f)
}

// solveBelow computes below: one pass over the strongly connected components of
// the call graph, callees first (Tarjan 1972, without recursion). An open call
// leads to one more node, which leads to all escaped functions.
func (c *charge) solveBelow() {
	n := len(c.owner)
	hub := fid(n)
	var escaped []edge
	for f := range c.escaped {
		if c.escaped[f] {
			escaped = append(escaped, edge{to: fid(f)})
		}
	}
	next := func(f fid, i int) (fid, bool) {
		list := escaped
		if f != hub {
			list = c.edges[f]
			if i == len(list) && (c.open[f] || c.guardedCalls[f]) {
				return hub, true
			}
		}
		if i >= len(list) {
			return 0, false
		}
		return list[i].to, true
	}
	c.below = make([]callset, n+1)
	index, low := make([]uint32, n+1), make([]uint32, n+1)
	onStack := make([]bool, n+1)
	type visit struct {
		f fid
		i int
	}
	var stack []fid
	var path []visit
	count := uint32(0)
	enter := func(f fid) {
		count++
		index[f], low[f], onStack[f] = count, count, true
		stack = append(stack, f)
		path = append(path, visit{f: f})
		if f != hub {
			c.below[f] = c.own[f]
		}
	}
	for root := range n {
		if index[root] != 0 || !c.reached[root] {
			continue
		}
		enter(fid(root))
		for len(path) > 0 {
			v := &path[len(path)-1]
			f := v.f
			if to, ok := next(f, v.i); ok {
				v.i++
				switch {
				case to != hub && !c.reached[to]:
				case index[to] == 0:
					enter(to)
				default:
					if onStack[to] {
						low[f] = min(low[f], index[to])
					}
					c.below[f].union(&c.below[to])
				}
				continue
			}
			path = path[:len(path)-1]
			if low[f] == index[f] {
				at := slices.Index(stack, f)
				for _, g := range stack[at:] {
					c.below[f].union(&c.below[g])
				}
				for _, g := range stack[at:] {
					c.below[g], onStack[g] = c.below[f], false
				}
				stack = stack[:at]
			}
			if len(path) > 0 {
				parent := path[len(path)-1].f
				low[parent] = min(low[parent], low[f])
				c.below[parent].union(&c.below[f])
			}
		}
	}
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

// sigreturn is rt_sigreturn, which the return address of signal handlers leads to.
var sigreturn = sysno{syscalls.AMD64, 15}

// An origin is what one compartment is charged with.
type origin struct {
	object *linked
	set    callset
	chain  callset
	direct map[int]fid     // by call: a function with an instruction of its own
	exits  map[fid]step    // functions called that are charged to it, and one place where
	handed map[int]handing // by call: where its number is handed over
	opener fid             // a function with an open call, or noFunc
	// bottoms are the functions of a conduit that are the outer end of stacks.
	bottoms []fid
}

// origins charges every object.
func (c *charge) origins() []origin {
	out := make([]origin, len(c.objects))
	for i, l := range c.objects {
		o := &out[i]
		o.object, o.direct, o.exits, o.handed, o.opener = l, map[int]fid{}, map[fid]step{}, map[int]handing{}, noFunc
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
			continue
		}
		c.chargeLazy(o)
		// The return from a signal handler is charged to the code interrupted, which
		// may be any.
		if at, ok := c.index[sigreturn]; ok && o.chain != (callset{}) {
			o.set.add(at)
		}
	}
	return out
}

// chargeFunction charges an object for one of its functions: its own
// instructions, and all that happens below its calls without a frame of another
// compartment in between.
func (c *charge) chargeFunction(o *origin, f fid) {
	if c.own[f] != (callset{}) {
		o.set.union(&c.own[f])
		c.own[f].each(func(i int) {
			if _, ok := o.direct[i]; !ok {
				o.direct[i] = f
			}
		})
	}
	for _, e := range c.edges[f] {
		if c.finalizes[e.to] {
			c.chargeRegistered(o, step{f, e.off})
		}
		n := c.numbersAt(f, e)
		o.set.union(&n)
		n.each(func(i int) {
			if _, ok := o.handed[i]; !ok {
				o.handed[i] = handing{e.to, step{f, e.off}}
			}
		})
		if _, ok := o.exits[e.to]; !ok && c.through[e.to] != (callset{}) {
			o.exits[e.to] = step{f, e.off}
			o.set.union(&c.through[e.to])
		}
	}
	if c.open[f] && !c.only[f] && o.opener == noFunc {
		o.opener = f
		o.set.union(&c.local[o.object.index])
	}
}

// chargeRegistered charges an object for what it has registered, which its own end
// calls at s.
func (c *charge) chargeRegistered(o *origin, s step) {
	for g := range c.through {
		if g := fid(g); c.registers(o.object.index, g) && c.through[g] != (callset{}) {
			if _, ok := o.exits[g]; !ok {
				o.exits[g] = s
				o.set.union(&c.through[g])
			}
		}
	}
}

// chargeLazy charges an object for the first calls through its linkage table.
func (c *charge) chargeLazy(o *origin) {
	if !o.object.BindLazy || len(o.exits) == 0 {
		return
	}
	first := noFunc
	for g := range o.exits {
		first = min(first, g)
	}
	for _, g := range c.lazyResolvers() {
		if _, ok := o.exits[g]; !ok {
			o.exits[g] = o.exits[first]
		}
		o.set.union(&c.through[g])
	}
}

// via lists the conduit functions through which call i leaves the object.
func (c *charge) via(o *origin, i int) []fid {
	var out []fid
	for g := range o.exits {
		if c.owner[g].conduit && c.through[g].has(i) {
			out = append(out, g)
		}
	}
	if h, ok := o.handed[i]; ok && !slices.Contains(out, h.to) {
		out = append(out, h.to)
	}
	return out
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
		if c.bottom[f] && c.reached[f] {
			o.bottoms = append(o.bottoms, f)
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
