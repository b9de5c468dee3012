package analysis

import (
	"slices"
	"strings"
)

// A pool is a set of functions that calls through pointers may enter. Who makes
// the call tells which.
type pool int

const (
	// poolOpen are all functions whose address escapes.
	poolOpen pool = iota
	// poolNamed are those whose address is known outside of conduits, all that are
	// outside, and the private functions of glibc whose address its code names
	// otherwise than in a table.
	poolNamed
	// poolConversions are glibc's character conversions.
	poolConversions
	// poolStarts are what the loader calls: initialisers and finalisers, resolvers
	// of relocations, entry points.
	poolStarts
	// poolGuarded are those whose address glibc keeps mangled.
	poolGuarded
	// poolExit are those that it calls at exit.
	poolExit
	// poolServices are its name services.
	poolServices
	pools
)

// inPools returns the pools that f is in, a bit each.
func (c *charge) inPools(f fid) uint16 {
	if !c.escaped[f] {
		return 0
	}
	var in uint16
	add := func(p pool, is bool) {
		if is {
			in |= 1 << p
		}
	}
	if c.bottom[f] {
		return 1 << poolOpen
	}
	if c.services[f] {
		return 1 << poolServices
	}
	add(poolOpen, true)
	add(poolNamed, c.enters(f) || c.byName[f] && !c.owner[f].object.Interp || !c.isGlibc(c.owner[f]) || c.allocates[f])
	add(poolConversions, c.converts(f))
	add(poolStarts, c.starts[f])
	add(poolGuarded, c.mangles(f))
	for i := range c.objects {
		add(poolExit, c.registers(i, f))
	}
	return in
}

// registers reports whether object i gives f to atexit or its kin.
func (c *charge) registers(i int, f fid) bool {
	return c.registered[i][f] || c.registeredUnknown[i] && c.escaped[f] && !c.owner[f].conduit
}

// callsPools returns the pools that f's calls through pointers enter and that are
// charged to its caller.
func (c *charge) callsPools(f fid) uint16 {
	var from uint16
	l := c.owner[f]
	if c.open[f] && !c.only[f] && !c.opensNothing(f) && c.edgeThrough(f, edge{tail: c.openTail(f)}) {
		switch {
		case !l.conduit: // into c.local
		case c.leaks || !c.isGlibc(l):
			from |= 1 << poolOpen
		case l.object.Interp:
			from |= 1 << poolStarts
		case c.converts(f):
			from |= 1 << poolConversions
		default:
			from |= 1 << poolNamed
		}
		if l.conduit && c.dispatchers[f] && !c.named[f] { // some without DL_CALL_FCT (inet/ether_hton.c)
			from |= 1 << poolServices
		}
	}
	if c.guardedCalls[f] && l.conduit {
		if c.finalizes[f] {
			// chargeFunction sees what its caller's object has registered
		} else if c.exits[f] {
			from |= 1 << poolExit
		} else {
			from |= 1 << poolGuarded
		}
		if c.dispatchers[f] && !c.named[f] {
			from |= 1 << poolServices
		}
	}
	return from
}

// isGlibc reports whether an object is glibc's libc.so or its loader.
func (r *reach) isGlibc(l *linked) bool {
	return l.conduit && (l.Soname == "libc.so.6" && l.Streams[1] != 0 || l.object.Interp && len(l.Lazy) > 0)
}

// profiled is called by glibc before it calls a function of a character conversion
// or a name service (DL_CALL_FCT in sysdeps/generic/ldsodefs.h).
const profiled = "_dl_mcount_wrapper_check"

// findProfilers finds the functions of an object that call such functions.
func (r *reach) findProfilers(l *linked) map[uint32]bool {
	if !r.isGlibc(l) {
		return nil
	}
	to := none
	for i := range l.Exports {
		if e := &l.Exports[i]; e.Name == profiled && e.Kind == ExportFunc {
			to = e.Func
		}
	}
	out := map[uint32]bool{}
	for f := range uint32(len(l.Funcs)) {
		if slices.ContainsFunc(l.calls(f), func(c Call) bool {
			return c.Kind == CallFunc && c.Target == to || c.Kind == CallImport && l.Imports[c.Target].Name == profiled
		}) {
			out[f] = true
		}
	}
	return out
}

// converts reports whether f calls functions of character conversions or name
// services.
func (r *reach) converts(f fid) bool {
	l := r.owner[f]
	return r.profilers[l.index][f-l.first]
}

// findStarts finds what the loader calls through pointers.
func (c *charge) findStarts() {
	c.starts = make([]bool, len(c.owner))
	for _, l := range c.objects {
		for _, list := range [][]uint32{l.Init, l.Fini} {
			for _, f := range list {
				c.starts[l.first+f] = true
			}
		}
		if l.Entry != none {
			c.starts[l.first+l.Entry] = !l.object.Interp
			for _, ref := range l.refs(l.Entry) {
				// The loader's entry hands _dl_fini over, which libc registers.
				if ref.Kind == RefFunc && l.object.Interp && l.index != 0 {
					c.registered[l.index][l.first+ref.Target] = true
				}
			}
		}
		for i := range l.Slots {
			if sl := &l.Slots[i]; sl.Kind == SlotResolver && sl.Target != none {
				c.starts[l.first+sl.Target] = true
			}
		}
		for i := range l.Exports {
			if e := &l.Exports[i]; e.Kind == ExportResolver {
				c.starts[l.first+e.Func] = true
			}
		}
	}
	for _, name := range loaderCalls {
		for _, d := range c.defs[name] {
			if d.export.Kind == ExportFunc && strings.HasPrefix(name, "__") {
				c.starts[d.object.first+d.export.Func] = true
			}
		}
	}
}

// findTables finds the private functions in the tables that glibc's functions with
// open calls name.
func (c *charge) findTables() {
	c.tables = map[fid][]fid{}
	for f := range c.open {
		l := c.owner[f]
		if !c.open[f] && !c.only[f] && !c.pops[fid(f)] || !c.isGlibc(l) {
			continue
		}
		for _, ref := range l.refs(fid(f) - l.first) {
			if (c.only[f] || c.pops[fid(f)]) && ref.Kind == RefFunc {
				c.tables[fid(f)] = append(c.tables[fid(f)], l.first+ref.Target)
			}
			if ref.Kind != RefSpan {
				continue
			}
			for _, sl := range l.slotsOf(ref.Target) {
				if sl.Kind == SlotFunc && sl.Target != none && (sl.Addr < l.Streams[0] || sl.Addr >= l.Streams[1]) {
					c.tables[fid(f)] = append(c.tables[fid(f)], l.first+sl.Target)
				}
			}
		}
	}
}
