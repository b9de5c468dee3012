package analysis

import (
	"slices"
	"sort"
)

// why says how a function was first reached.
type why struct {
	from fid    // the function that leads here, or noFunc for a root
	off  uint32 // of the instruction in from
	kind whyKind
}

type whyKind uint8

const (
	byRoot    whyKind = iota // the kernel, the loader or the C library starts it
	byCall                   // called or jumped to
	byAddress                // its address escapes in from
	byData                   // its address is in data that from names
)

const noFunc = ^fid(0)

// An edge is a call that was resolved.
type edge struct {
	to   fid
	off  uint32
	tail bool
}

// A numbered is a system call instruction with a number.
type numbered struct {
	off uint32
	abi SiteABI
	nr  int
}

// reach finds what a program can reach: the least set of functions, data and
// values that is closed under calls, escapes of addresses, and what registers
// carry into functions.
type reach struct {
	*program
	reached, escaped []bool
	// guardedCalls says that a function calls pointers that glibc keeps mangled.
	guardedCalls []bool
	// lookedUp says that dlsym may have found a function.
	lookedUp   []bool
	registrars map[fid]bool
	// registered are by object the functions that it gave to atexit or its kin;
	// registeredUnknown says that it gave others.
	registered        []map[fid]bool
	registeredUnknown []bool
	// public says of a conduit's function that its address escapes outside of
	// conduits.
	public []bool
	// homes are by function the other objects that name it, everywhere says that one
	// is not known.
	homes      [][]uint16
	everywhere []bool
	uses       []dependency
	// byName says of a function that its address escapes otherwise than in a table.
	byName []bool
	// outside says of a function that code outside of conduits calls it or has its
	// address.
	outside    []bool
	why        []why
	edges      [][]edge
	open       []bool // calls through pointers that are not followed
	numbers    [][]numbered
	unresolved map[place]bool
	spans      [][]bool // by object and span
	slots      [][]bool
	nodes      []*[regStack + 1]*node // by function and register
	work       []fid
	openEnds   map[place]string
	plugins    Plugins
	leaveOut   bool // plug-ins are open ends
	set        *asker
	closed     bool            // the user has said what else is opened
	wanted     map[string]bool // libraries that may be opened
	opening    []opening       // those that are not linked yet
	symbols    map[string][]place
	streams    map[uint64]*stream // by offset in a table
	guards     map[fid][]*guard
	services   map[fid]*guard    // functions of name services
	profilers  []map[uint32]bool // by object: functions that call conversions and name services
	cleanups   map[fid]bool
	pops       map[fid]bool   // functions of glibc that call these
	params     map[fid]uint32 // registers of parameters, where known
	callbacks  map[fid]uint32 // registers of functions that are called and not kept
	held       []held
	wide       bool            // a stream may be opened with a wide mode
	followed   map[place]bool  // calls that waited for a parameter's value, by index
	constants  map[string]bool // of functions of name services, that reached code names
	cause      why             // of what is escaping now
}

// A stream is an entry of glibc's tables of stream functions: who calls it, and
// the functions that reachable tables have there.
type stream struct {
	calls []streamCall
	funcs []fid
}

type streamCall struct {
	l    *linked
	f    fid
	call uint32
}

// A place is an instruction.
type place struct {
	fn  fid
	off uint32
}

type nodeKey struct {
	fn  fid
	reg uint8
}

// A node holds what a register may carry into a function.
type node struct {
	funcs   []fid
	numbers []int64
	unknown bool
	uses    []use
}

// A use is what a function does with a value that it was entered with.
type use struct {
	kind useKind
	call uint32  // useCall: index in the summary
	site uint32  // useSite: index in the run of sites
	to   nodeKey // useForward
	fn   fid
	off  uint32
}

type useKind uint8

const (
	useCall useKind = iota
	useSite
	useForward
	useEscape
	useRegister
	useCallback
	useWhen
)

func newReach(p *program) *reach {
	r := &reach{
		program: p, streams: map[uint64]*stream{}, guards: map[fid][]*guard{}, services: map[fid]*guard{}, callbacks: map[fid]uint32{}, params: map[fid]uint32{}, cleanups: map[fid]bool{}, pops: map[fid]bool{}, registrars: map[fid]bool{},
		unresolved: map[place]bool{},
		openEnds:   map[place]string{}, constants: map[string]bool{}, followed: map[place]bool{}, wanted: map[string]bool{}, symbols: map[string][]place{},
	}
	r.grow()
	return r
}

// grow makes room for the objects that the program has now.
func (r *reach) grow() {
	n := len(r.owner) - len(r.reached)
	r.reached = append(r.reached, make([]bool, n)...)
	r.escaped = append(r.escaped, make([]bool, n)...)
	r.public = append(r.public, make([]bool, n)...)
	r.outside = append(r.outside, make([]bool, n)...)
	r.byName = append(r.byName, make([]bool, n)...)
	r.homes = append(r.homes, make([][]uint16, n)...)
	r.everywhere = append(r.everywhere, make([]bool, n)...)
	r.open = append(r.open, make([]bool, n)...)
	r.guardedCalls = append(r.guardedCalls, make([]bool, n)...)
	r.lookedUp = append(r.lookedUp, make([]bool, n)...)
	r.why = append(r.why, make([]why, n)...)
	r.edges = append(r.edges, make([][]edge, n)...)
	r.nodes = append(r.nodes, make([]*[regStack + 1]*node, n)...)
	r.numbers = append(r.numbers, make([][]numbered, n)...)
	for _, l := range r.objects[len(r.spans):] {
		r.spans = append(r.spans, make([]bool, len(l.Spans)))
		r.slots = append(r.slots, make([]bool, len(l.Slots)))
		r.registered = append(r.registered, map[fid]bool{})
		r.registeredUnknown = append(r.registeredUnknown, false)
		r.guard(l)
		r.findCallbacks(l)
		r.profilers = append(r.profilers, r.findProfilers(l))
		r.findRegistrars(l)
	}
}

// run starts at the roots and works until nothing new is reached.
func (r *reach) run() {
	r.passOn()
	r.cause = why{from: noFunc}
	for _, l := range r.objects {
		r.roots(l)
	}
	r.drain()
}

func (r *reach) drain() {
	for len(r.work) > 0 || r.release() {
		f := r.work[len(r.work)-1]
		r.work = r.work[:len(r.work)-1]
		r.function(f)
	}
}

// roots are the functions of an object that the kernel, the loader or the C
// library calls without a call that the code shows.
func (r *reach) roots(l *linked) {
	r.cause = why{from: noFunc}
	if l.index == 0 || l.object.Interp {
		if l.Entry != none {
			r.escape(l.first + l.Entry)
		}
	}
	for _, list := range [][]uint32{l.Init, l.Fini} {
		for _, f := range list {
			r.escape(l.first + f)
		}
	}
	if l.Go {
		for i := range l.Funcs {
			r.reach(l.first+fid(i), r.cause)
		}
	}
	for _, c := range l.Copies {
		if b := r.resolve(l, c.Import); b.object != nil {
			r.data(b.object, b.export.Value, b.export.Size)
		}
	}
	for i := range l.Slots {
		// The loader runs the resolvers of all its relocations.
		switch sl := &l.Slots[i]; sl.Kind {
		case SlotResolver:
			if sl.Target != none {
				r.enter(l.first + sl.Target)
			}
		case SlotImport:
			if b := r.resolve(l, sl.Target); b.object != nil && b.export.Kind == ExportResolver {
				r.enter(b.object.first + b.export.Func)
			}
		}
	}
	if l.object.Interp {
		for _, name := range loaderCalls {
			for _, d := range r.defs[name] {
				if d.export.Kind == ExportFunc && d.object.conduit {
					r.escape(d.object.first + d.export.Func)
				}
			}
		}
	}
}

// loaderCalls are the functions that dynamic loaders look up by name: glibc's in
// libc.so (elf/dl-minimal.c, elf/dl-call-libc-early-init.c), musl's in itself
// (ldso/dynlink.c).
var loaderCalls = []string{
	"__libc_early_init", "malloc", "calloc", "realloc", "free",
	"__dls2", "__dls2b", "__dls3",
}

// reach marks a function as reachable.
func (r *reach) reach(f fid, because why) {
	if !r.reached[f] {
		again := func() { r.reach(f, because) }
		if r.waits(f, "", heldKey{f: f}, again) || r.byLookup(because) && r.waitsForName(f, again) {
			return
		}
		r.reached[f] = true
		r.why[f] = because
		r.work = append(r.work, f)
	}
}

// escape marks a function as callable from anywhere with anything.
func (r *reach) escape(f fid) {
	if r.cause.kind != byRoot && (r.cause.from == noFunc || !r.owner[r.cause.from].conduit) {
		r.public[f], r.outside[f] = true, true
	}
	r.addHome(f)
	if r.cause.kind != byRoot && r.cause.kind != byData {
		r.byName[f] = true
	}
	if r.escaped[f] {
		return
	}
	r.escaped[f] = true
	r.enter(f)
}

// enter marks a function as entered with anything.
func (r *reach) enter(f fid) {
	r.reach(f, r.cause)
	for uses, reg := r.funcOf(f).Uses|r.funcOf(f).Tests, uint8(0); uses != 0; uses, reg = uses>>1, reg+1 {
		if uses&1 != 0 {
			r.addUnknown(nodeKey{f, reg})
		}
	}
}

func (r *reach) funcOf(f fid) *Func {
	l := r.owner[f]
	return &l.Funcs[f-l.first]
}

// span marks a span's pointers as reachable.
func (r *reach) span(l *linked, i uint32) {
	if r.spans[l.index][i] {
		return
	}
	r.spans[l.index][i] = true
	cause := r.cause
	if r.cause.kind == byAddress {
		r.cause.kind = byData
	}
	defer func() { r.cause = cause }()
	from := uint32(0)
	if i > 0 {
		from = l.Spans[i-1].Slots
	}
	for s := from; s < l.Spans[i].Slots; s++ {
		sl := &l.Slots[s]
		if sl.Addr >= l.Streams[0] && sl.Addr < l.Streams[1] && sl.Kind == SlotFunc && sl.Target != none {
			r.streamFunc(sl.Addr-l.Spans[i].Start, l.first+sl.Target)
			continue
		}
		if l.byField(sl.Addr) {
			continue
		}
		r.slot(l, s)
	}
}

// byField reports whether addr is in the structure that glibc's loader shares with
// libc: its fields are named one by one (GLRO in sysdeps/generic/ldsodefs.h), so
// that its address alone leads to none of its function pointers.
func (l *linked) byField(addr uint64) bool {
	if !l.object.Interp || len(l.Lazy) == 0 {
		return false
	}
	if l.shared == nil {
		l.shared = new([2]uint64)
		for i := range l.Exports {
			if e := &l.Exports[i]; e.Name == "_rtld_global_ro" {
				*l.shared = [2]uint64{e.Value, e.Value + e.Size}
			}
		}
	}
	return addr >= l.shared[0] && addr < l.shared[1]
}

func (r *reach) stream(off uint64) *stream {
	s := r.streams[off]
	if s == nil {
		s = new(stream)
		r.streams[off] = s
	}
	return s
}

// streamFunc notes that a table of stream functions with f at off is reachable.
func (r *reach) streamFunc(off uint64, f fid) {
	s := r.stream(off)
	if slices.Contains(s.funcs, f) {
		return
	}
	s.funcs = append(s.funcs, f)
	for i := 0; i < len(s.calls); i++ {
		c := s.calls[i]
		r.connect(c.l, c.f, c.call, f)
	}
}

// streamCall notes that call c of f goes through a table of stream functions.
func (r *reach) streamCall(l *linked, f fid, c uint32, off uint64) {
	s := r.stream(off)
	s.calls = append(s.calls, streamCall{l, f, c})
	for i := 0; i < len(s.funcs); i++ {
		r.connect(l, f, c, s.funcs[i])
	}
}

// Offsets in glibc's struct _IO_FILE_plus and struct _IO_wide_data of the pointer
// to the table of functions (libio/libioP.h).
const (
	fileTable = 0xd8
	wideTable = 0xe0
)

// isStream reports whether an expression is an entry of a stream's table, in a
// function that checks the table's address.
func (l *linked) isStream(f fid, e Expr) bool {
	if e.Op != OpLoad || !l.Funcs[f-l.first].Streams {
		return false
	}
	table := l.Exprs[e.I]
	switch table.Op {
	case OpLoad:
		return table.N == fileTable || table.N == wideTable
	case OpUnknown: // the table's address was kept in memory meanwhile
		return e.N%8 == 0 && e.N >= streamFirst && e.N <= streamLast
	}
	return false
}

// Offsets of the first and the last function in glibc's struct _IO_jump_t.
const (
	streamFirst = 0x10
	streamLast  = 0xa0
)

// slot lets what a slot holds escape.
func (r *reach) slot(l *linked, i uint32) {
	sl := &l.Slots[i]
	if sl.Target != none && sl.Kind == SlotFunc && r.cause.kind == byAddress {
		r.byName[l.first+sl.Target] = true
	}
	if r.slots[l.index][i] || sl.Target == none {
		return
	}
	r.slots[l.index][i] = true
	switch sl.Kind {
	case SlotFunc:
		r.escape(l.first + sl.Target)
	case SlotData:
		r.span(l, sl.Target)
	case SlotImport:
		r.imported(l, sl.Target, sl.Addend)
		if b := r.resolve(l, sl.Target); b.object != nil && b.export.Kind == ExportFunc {
			r.home(b.object.first+b.export.Func, l)
		}
	case SlotResolver:
		r.resolver(l, sl.Target)
	}
}

// imported lets the address of an imported symbol escape.
func (r *reach) imported(l *linked, i uint32, addend int64) {
	b := r.resolve(l, i)
	if b.object == nil {
		return
	}
	switch b.export.Kind {
	case ExportData:
		r.data(b.object, b.export.Value, b.export.Size)
	case ExportFunc:
		r.escape(b.object.first + b.export.Func)
	case ExportResolver:
		r.resolver(b.object, b.export.Func)
	}
}

// resolver lets what an IFUNC resolver returns escape.
func (r *reach) resolver(l *linked, fn uint32) {
	r.enter(l.first + fn)
	for _, t := range r.returned(l, fn) {
		r.escape(t)
	}
}

// returned lists the functions that a resolver returns.
func (r *reach) returned(l *linked, fn uint32) []fid {
	var out []fid
	for _, i := range l.returns(fn) {
		for _, e := range l.members(i) {
			switch e.Op {
			case OpFunc:
				out = append(out, l.first+e.I)
			case OpImport:
				if b := r.resolve(l, e.I); b.object != nil && b.export.Kind == ExportFunc {
					out = append(out, b.object.first+b.export.Func)
				}
			}
		}
	}
	return out
}

// data marks exported data as reachable.
func (r *reach) data(l *linked, addr, size uint64) {
	i := uint32(sort.Search(len(l.Spans), func(i int) bool { return l.Spans[i].End > addr }))
	for ; int(i) < len(l.Spans) && l.Spans[i].Start < addr+max(size, 1); i++ {
		r.span(l, i)
	}
}

// function follows everything that a function does.
func (r *reach) function(f fid) {
	l := r.owner[f]
	i := f - l.first
	for _, ref := range l.refs(i) {
		r.cause = why{f, ref.Off, byAddress}
		switch ref.Kind {
		case RefFunc:
			r.escape(l.first + ref.Target)
		case RefSpan:
			r.span(l, ref.Target)
		case RefImport:
			r.imported(l, ref.Target, ref.Addend)
		case RefSlot:
			r.slot(l, ref.Target)
		case RefImportSlot:
			if o, s, ok := r.importSlot(l, ref.Target, ref.Addend); ok {
				r.slot(o, s)
			}
		}
	}
	for _, n := range l.names(i) {
		r.named(l, place{f, n.Off}, n.Text)
	}
	first := l.firstCall(i)
	for j := range l.calls(i) {
		r.follow(l, f, first+uint32(j))
	}
	for j, s := range l.sites(i) {
		for _, e := range l.members(s.Expr) {
			switch {
			case e.Op == OpConst:
				r.number(f, s, e.N)
			case e.Op == OpParam:
				r.use(nodeKey{f, uint8(e.I)}, use{kind: useSite, site: uint32(j), fn: f})
			case e.Op == OpStackParam && e.N == 8:
				r.use(nodeKey{f, regStack}, use{kind: useSite, site: uint32(j), fn: f})
			default:
				r.unresolved[place{f, s.Off}] = true
			}
		}
	}
}

// broadcasts are the system calls that glibc repeats in every thread
// (nptl/nptl_setxid.c): the number is in a structure that their wrappers fill in,
// and each wrapper makes the call itself, too, where there is one thread only.
var broadcasts = []int64{105, 106, 113, 114, 116, 117, 119}

// resolveBroadcasts gives the instructions of libc whose number comes from memory
// the numbers of the broadcasts that are reachable.
func (r *reach) resolveBroadcasts() {
	for at := range r.unresolved {
		l := r.owner[at.fn]
		if l.Soname != "libc.so.6" && !l.hasBroadcasts() {
			continue
		}
		for _, s := range l.sites(at.fn - l.first) {
			e := l.Exprs[s.Expr]
			if s.Off != at.off || e.Op != OpLoad || e.N != 0 {
				continue
			}
			delete(r.unresolved, at)
			for _, nr := range broadcasts {
				if r.makes(l, nr) {
					r.number(at.fn, s, nr)
				}
			}
		}
	}
}

// hasBroadcasts reports whether a static program holds glibc's wrappers.
func (l *linked) hasBroadcasts() bool { return l.Static && !l.Go && l.Streams[1] != 0 }

// makes reports whether a reached instruction of object l makes system call nr.
func (r *reach) makes(l *linked, nr int64) bool {
	for i := range l.Funcs {
		if slices.ContainsFunc(r.numbers[l.first+fid(i)], func(x numbered) bool { return x.abi == SiteAMD64 && int64(x.nr) == nr }) {
			return true
		}
	}
	return false
}

// sysExecve is made by glibc's loader only when it is run as a program itself
// (rtld_chain_load in elf/rtld.c).
const sysExecve = 59

func (r *reach) number(f fid, s Site, n int64) {
	if r.waitsToMake(f, s, n) {
		return
	}
	if l := r.owner[f]; n == sysExecve && s.ABI == SiteAMD64 && l.object.Interp && l.index != 0 && len(l.Lazy) > 0 {
		return
	}
	x := numbered{s.Off, s.ABI, int(uint32(n))}
	for _, have := range r.numbers[f] {
		if have == x {
			return
		}
	}
	r.numbers[f] = append(r.numbers[f], x)
}

// importSlot finds the slot of imported data.
func (r *reach) importSlot(l *linked, imp uint32, addend int64) (*linked, uint32, bool) {
	b := r.resolve(l, imp)
	if b.object == nil || b.export.Kind != ExportData {
		return nil, 0, false
	}
	i, ok := b.object.slotAt(b.export.Value + uint64(addend))
	return b.object, i, ok
}

func (s *Summary) slotAt(addr uint64) (uint32, bool) {
	i := sort.Search(len(s.Slots), func(i int) bool { return s.Slots[i].Addr >= addr })
	return uint32(i), i < len(s.Slots) && s.Slots[i].Addr == addr
}

// call follows call c (an index of the summary's table) of function f.
func (r *reach) call(l *linked, f fid, c uint32) {
	call := &l.Calls[c]
	switch call.Kind {
	case CallFunc:
		r.connect(l, f, c, l.first+call.Target)
	case CallImport:
		r.callImport(l, f, c, call.Target)
	case CallIndirect:
		for _, e := range l.members(call.Target) {
			r.callExpr(l, f, c, e)
		}
	}
}

func (r *reach) callImport(l *linked, f fid, c, imp uint32) {
	r.dynamic(l, f, c, l.Imports[imp].Name)
	b := r.resolve(l, imp)
	if b.object == nil {
		r.callUnknown(l, f, c, false)
		return
	}
	switch b.export.Kind {
	case ExportFunc:
		r.connect(l, f, c, b.object.first+b.export.Func)
	case ExportResolver:
		for _, t := range r.returned(b.object, b.export.Func) {
			r.connect(l, f, c, t)
		}
	}
}

// callExpr follows a call of what an expression gives.
func (r *reach) callExpr(l *linked, f fid, c uint32, e Expr) {
	switch e.Op {
	case OpFunc:
		r.connect(l, f, c, l.first+e.I)
	case OpImport:
		r.callImport(l, f, c, e.I)
	case OpParam:
		r.use(nodeKey{f, uint8(e.I)}, use{kind: useCall, call: c, fn: f})
	case OpSlot:
		r.callVariable(l, f, c, l, uint64(e.N))
	case OpImportSlot:
		b := r.resolve(l, e.I)
		if b.object == nil || b.export.Kind != ExportData {
			r.callUnknown(l, f, c, true)
			return
		}
		r.callVariable(l, f, c, b.object, b.export.Value+uint64(e.N))
	case OpGuarded:
		r.guardedCalls[f] = true
		r.callUnknown(l, f, c, false)
	default:
		if r.isHook(l, e) {
			return
		}
		if slices.Contains(l.Lazy, f-l.first) {
			return // to the function that the import is bound to, which its caller's edge says
		}
		if l.isStream(f, e) {
			r.streamCall(l, f, c, uint64(e.N))
			return
		}
		if e.Op == OpUnknown && l.Funcs[f-l.first].Streams && !r.met(formatGuard) {
			r.hold(formatGuard, heldKey{f, l.Calls[c].Off, -1}, func() { r.callUnknown(l, f, c, true) })
			return
		}
		r.callUnknown(l, f, c, true)
	}
}

// isHook reports whether an expression is a function in a table that glibc's
// loader points to (GLRO(dl_dlfcn_hook)): only a static program sets that.
func (r *reach) isHook(l *linked, e Expr) bool {
	if e.Op != OpLoad || l.Exprs[e.I].Op != OpImportSlot {
		return false
	}
	b := r.resolve(l, l.Exprs[e.I].I)
	return b.object != nil && b.object != l && b.object.byField(b.export.Value) && r.isGlibc(l)
}

// callVariable follows a call through a word of data of object o: to what it
// holds at the start, and unless that is fixed to what is stored there later.
func (r *reach) callVariable(l *linked, f fid, c uint32, o *linked, addr uint64) {
	s, ok := o.slotAt(addr)
	if ok {
		r.callSlot(l, f, c, o, s)
	}
	switch {
	case ok && o.Slots[s].Fixed:
	case o.object.Interp && len(o.Lazy) > 0 && l != o:
		// Of the function pointers that glibc's loader shares with libc, those that
		// are not linked lead to the vDSO, which is a conduit whose system calls libc
		// makes itself where it cannot use them.
	case o.object.Interp && len(o.Lazy) > 0:
		// Those that it keeps to itself lead to what it is linked with or to an
		// allocator.
		for _, t := range r.allocators() {
			r.connect(l, f, c, t)
		}
	default:
		r.callUnknown(l, f, c, true)
	}
}

// allocators are the functions that glibc's loader uses in place of its own once
// libc is there (elf/dl-minimal.c).
func (r *reach) allocators() []fid {
	var out []fid
	for _, name := range []string{"malloc", "calloc", "realloc", "free"} {
		if b := r.lookup(name, ""); b.object != nil && b.export.Kind == ExportFunc {
			out = append(out, b.object.first+b.export.Func)
		}
	}
	return out
}

// callSlot follows a call of what slot s of object o holds at the start.
func (r *reach) callSlot(l *linked, f fid, c uint32, o *linked, s uint32) {
	sl := &o.Slots[s]
	if sl.Target == none {
		return
	}
	switch sl.Kind {
	case SlotFunc:
		r.connect(l, f, c, o.first+sl.Target)
	case SlotImport:
		if b := r.resolve(o, sl.Target); b.object != nil && b.export.Kind == ExportFunc {
			r.connect(l, f, c, b.object.first+b.export.Func)
		} else if b.object != nil && b.export.Kind == ExportResolver {
			for _, t := range r.returned(b.object, b.export.Func) {
				r.connect(l, f, c, t)
			}
		}
	case SlotResolver:
		for _, t := range r.returned(o, sl.Target) {
			r.connect(l, f, c, t)
		}
	}
}

// callUnknown follows a call whose target is one of the escaped functions: what
// it hands over escapes.
func (r *reach) callUnknown(l *linked, f fid, c uint32, open bool) {
	if open {
		r.open[f] = true
	}
	if r.converts(f) {
		return // neither conversions nor name services are given functions
	}
	for _, a := range l.args(c) {
		for _, e := range l.members(a.Expr) {
			r.escapeExpr(l, f, l.Calls[c].Off, e)
		}
	}
}

func (r *reach) escapeExpr(l *linked, f fid, off uint32, e Expr) {
	r.cause = why{f, off, byAddress}
	switch e.Op {
	case OpFunc:
		r.escape(l.first + e.I)
	case OpImport:
		r.imported(l, e.I, e.N)
	case OpParam:
		r.use(nodeKey{f, uint8(e.I)}, use{kind: useEscape, fn: f, off: off})
	case OpSlot:
		if s, ok := l.slotAt(uint64(e.N)); ok {
			r.slot(l, s)
		}
	}
}

// connect adds an edge from call c of f and hands the arguments over.
func (r *reach) connect(l *linked, f fid, c uint32, to fid) {
	if r.waitsToCall(l, f, c, to) || r.ignores(f, to) {
		return
	}
	to = r.standIn(l, to)
	off := l.Calls[c].Off
	if !l.conduit {
		r.outside[to] = true
	}
	if l.Calls[c].Kind == CallIndirect { // the others come here once
		for _, e := range r.edges[f] {
			if e.to == to && e.off == off {
				return
			}
		}
	}
	r.edges[f] = append(r.edges[f], edge{to, off, l.Calls[c].Tail})
	r.reach(to, why{f, off, byCall})
	callee := *r.funcOf(to)
	if r.registrars[to] {
		r.register(l, f, c)
	}
	calls := r.callbacks[to]
	callee.Uses &^= calls
	if params, ok := r.params[to]; ok {
		callee.Uses &= params
		callee.Escapes &= params
	}
	callee.Tests &^= callee.Uses | calls
	missing, uncalled := callee.Uses|callee.Tests, calls
	for _, a := range l.args(c) {
		bit := uint32(1) << a.Reg
		if calls&bit != 0 {
			uncalled &^= bit
			for _, e := range l.members(a.Expr) {
				r.callback(l, f, c, e)
			}
			continue
		}
		if callee.Escapes&bit != 0 && !(callee.Uses&bit != 0 && r.isGlibc(l) && r.isGlibc(r.owner[to])) {
			for _, e := range l.members(a.Expr) {
				r.escapeExpr(l, f, off, e)
			}
		}
		if callee.Tests&bit != 0 {
			missing &^= bit
			for _, e := range l.members(a.Expr) {
				r.handTested(f, e, nodeKey{to, a.Reg})
			}
		}
		if callee.Uses&bit == 0 {
			continue
		}
		missing &^= bit
		for _, e := range l.members(a.Expr) {
			r.hand(l, f, e, nodeKey{to, a.Reg})
		}
	}
	for reg := uint8(0); missing != 0; missing, reg = missing>>1, reg+1 {
		if missing&1 != 0 {
			r.addUnknown(nodeKey{to, reg})
		}
	}
	if uncalled != 0 {
		r.open[f] = true
	}
	if r.cleanups[to] && r.isGlibc(l) {
		r.pops[f] = true
	} else if r.cleanups[to] {
		r.open[f] = true
	}
}

// hand passes a value of function f into a node.
func (r *reach) hand(l *linked, f fid, e Expr, to nodeKey) {
	switch e.Op {
	case OpFunc:
		r.addFunc(to, l.first+e.I, why{f, 0, byAddress})
	case OpConst:
		r.addNumber(to, e.N)
	case OpSlot:
		if s, ok := l.slotAt(uint64(e.N)); ok && l.Slots[s].Kind == SlotResolver {
			for _, t := range r.returned(l, l.Slots[s].Target) {
				r.addFunc(to, t, why{f, 0, byAddress})
			}
			return
		}
		r.addUnknown(to)
	case OpParam:
		r.use(nodeKey{f, uint8(e.I)}, use{kind: useForward, to: to, fn: f})
	case OpStackParam:
		if e.N != 8 {
			r.addUnknown(to)
			return
		}
		r.use(nodeKey{f, regStack}, use{kind: useForward, to: to, fn: f})
	case OpImport:
		b := r.resolve(l, e.I)
		if b.object == nil {
			return
		}
		switch b.export.Kind {
		case ExportFunc:
			r.addFunc(to, b.object.first+b.export.Func, why{f, 0, byAddress})
		case ExportResolver:
			for _, t := range r.returned(b.object, b.export.Func) {
				r.addFunc(to, t, why{f, 0, byAddress})
			}
		default:
			r.data(b.object, b.export.Value, b.export.Size)
			r.addUnknown(to)
		}
	default:
		r.addUnknown(to)
	}
}

func (r *reach) node(k nodeKey) *node {
	regs := r.nodes[k.fn]
	if regs == nil {
		regs = new([regStack + 1]*node)
		r.nodes[k.fn] = regs
	}
	if regs[k.reg] == nil {
		regs[k.reg] = new(node)
	}
	return regs[k.reg]
}

func (r *reach) addFunc(k nodeKey, f fid, because why) {
	n := r.node(k)
	for _, have := range n.funcs {
		if have == f {
			return
		}
	}
	n.funcs = append(n.funcs, f)
	if !r.owner[because.from].conduit {
		r.outside[f] = true
	}
	for i := 0; i < len(n.uses); i++ {
		r.cause = because
		r.apply(n, n.uses[i], &f, nil)
	}
}

func (r *reach) addNumber(k nodeKey, v int64) {
	n := r.node(k)
	for _, have := range n.numbers {
		if have == v {
			return
		}
	}
	n.numbers = append(n.numbers, v)
	for i := 0; i < len(n.uses); i++ {
		r.apply(n, n.uses[i], nil, &v)
	}
}

func (r *reach) addUnknown(k nodeKey) {
	n := r.node(k)
	if n.unknown {
		return
	}
	n.unknown = true
	for i := 0; i < len(n.uses); i++ {
		r.applyUnknown(n.uses[i])
	}
}

// use adds a use to a node and applies it to what the node holds.
func (r *reach) use(k nodeKey, u use) {
	n := r.node(k)
	for _, have := range n.uses {
		if have == u {
			return
		}
	}
	n.uses = append(n.uses, u)
	for i := 0; i < len(n.funcs); i++ {
		r.cause = why{u.fn, u.off, byAddress}
		r.apply(n, u, &n.funcs[i], nil)
	}
	for i := 0; i < len(n.numbers); i++ {
		r.apply(n, u, nil, &n.numbers[i])
	}
	if n.unknown {
		r.applyUnknown(u)
	}
}

func (r *reach) apply(n *node, u use, f *fid, v *int64) {
	l := r.owner[u.fn]
	switch {
	case u.kind == useWhen:
		r.meets(l, u.fn, u.call, v)
	case u.kind == useForward && f != nil:
		r.addFunc(u.to, *f, r.cause)
	case u.kind == useForward:
		r.addNumber(u.to, *v)
	case u.kind == useCall && f != nil:
		r.connect(l, u.fn, u.call, *f)
	case u.kind == useCallback && f != nil:
		r.callsBack(u.fn, u.call, *f)
	case u.kind == useEscape && f != nil:
		r.escape(*f)
	case u.kind == useRegister && f != nil:
		r.registered[l.index][*f] = true
		r.escape(*f)
	case u.kind == useSite && v != nil:
		r.number(u.fn, l.sites(u.fn - l.first)[u.site], *v)
	}
}

func (r *reach) applyUnknown(u use) {
	l := r.owner[u.fn]
	switch u.kind {
	case useForward:
		r.addUnknown(u.to)
	case useWhen:
		r.meets(l, u.fn, u.call, nil)
	case useCall:
		r.callUnknown(l, u.fn, u.call, true)
	case useCallback:
		r.open[u.fn] = true
	case useRegister:
		r.registeredUnknown[l.index] = true
	case useSite:
		r.unresolved[place{u.fn, l.sites(u.fn - l.first)[u.site].Off}] = true
	}
}

// registerNames are the functions that take, first, one to call at exit. glibc
// keeps it mangled and calls it from exit, __cxa_finalize and the end of threads.
var registerNames = []string{
	"__cxa_atexit", "__cxa_at_quick_exit", "__cxa_thread_atexit_impl", "on_exit", "atexit", "at_quick_exit",
}

// exitNames are the functions that call them, besides private ones that exit
// calls.
var exitNames = []string{"__cxa_finalize", "exit", "quick_exit", "__call_tls_dtors"}

func (r *reach) findRegistrars(l *linked) {
	if !l.conduit {
		return
	}
	for i := range l.Exports {
		if e := &l.Exports[i]; e.Kind == ExportFunc && slices.Contains(registerNames, e.Name) {
			r.registrars[l.first+e.Func] = true
		}
	}
}

// register notes what call c of f gives to atexit or its kin: what an object
// registers is called at its own end, or at that of the program.
func (r *reach) register(l *linked, f fid, c uint32) {
	r.cause = why{f, l.Calls[c].Off, byAddress}
	given := false
	for _, a := range l.args(c) {
		if a.Reg != regFirst {
			continue
		}
		given = true
		for _, e := range l.members(a.Expr) {
			switch e.Op {
			case OpFunc:
				r.registered[l.index][l.first+e.I] = true
				r.escape(l.first + e.I)
			case OpImport:
				r.imported(l, e.I, e.N)
				if b := r.resolve(l, e.I); b.object != nil && b.export.Kind == ExportFunc {
					r.registered[l.index][b.object.first+b.export.Func] = true
				} else {
					r.registeredUnknown[l.index] = true
				}
			case OpParam:
				r.use(nodeKey{f, uint8(e.I)}, use{kind: useRegister, fn: f})
			default:
				r.registeredUnknown[l.index] = true
			}
		}
	}
	if !given {
		r.registeredUnknown[l.index] = true
	}
}
