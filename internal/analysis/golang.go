package analysis

import (
	"debug/elf"
	"fmt"
	"slices"
	"sort"
	"strings"

	"bulkhead/internal/objfile"
	"bulkhead/internal/region"
)

// A goProgram charges the parts of an object of Go code, its modules, with what
// happens below their functions and those that were inlined from them.
//
// Its nodes are the functions, once more for each part whose code was inlined into
// them, and hubs: sets of functions that calls of a kind may lead to. How calls
// through func values and interfaces are narrowed is told in docs/go.md.
type goProgram struct {
	*charge
	l       *linked
	file    *objfile.File
	table   *objfile.GoTable
	regions *region.Map
	funcs   []goFunc // by index in the summary
	nodes   []goNode
	virtual map[goVirtual]int32
	hubs    map[string]int32
	bottoms []int32 // nodes of conduits that are the outer end of stacks

	inlinedFn   int32 // the function that inlinedList is of
	inlinedList []objfile.Inlining
	types       *goTypes
	released    bool                 // by one of the releases of Go that more is known of
	called      map[string]bool      // names of methods of the program's interfaces
	methods     map[string][]int32   // functions by the name of the method that they are
	closures    map[string][]int32   // functions whose addresses code of a package takes
	taken       []bool               // by function: its address is taken
	takers      map[goTaken][]string // the packages that are given what was taken, "" for any
	byStart     map[uint64]int32
}

// goFunc is a function of the table, or one of C when it has no name.
type goFunc struct {
	name, pkg string
	std       *goStdPackage // nil for packages of modules
	cut       bool          // stacks end here
	uses      []goUse
	calls     []goCallSite // direct calls of it
}

// goUse says that a function calls what a register holds at its entry: a func value,
// or a method of an interface, at an offset in its table. Negative
// offsets stand for other uses.
type goUse struct {
	goUsed
	way goWay
}

type goUsed struct {
	reg    uint8
	offset int64
	pkg    string // of the code that calls
}

// Offsets of other uses.
const (
	goNumber = -1 // what the register holds is the number of a system call
	goKept   = -2 // a func value that the function keeps for its callers is called
)

// goWay leads from a function to the system call instruction: the offset of an
// instruction, and the function that it calls, or -1 for the instruction itself. The
// function has a use with a way of its own.
type goWay struct {
	off  uint32
	next int32
	reg  uint8 // of the use
}

type goCallSite struct {
	fn   int32
	call uint32 // index in the summary
}

type goTaken struct {
	fn  int32
	pkg string
}

type goVirtual struct {
	fn   int32
	part uint16
}

type goNode struct {
	fn           int32 // -1: a hub
	part         uint16
	conduit      bool
	own, through callset
	edges        []goEdge
	ways         map[int]goWay // for own, by call
}

type goEdge struct {
	to   int32
	off  uint32 // of the call in the function
	tail bool
}

// goCuts are functions that give up the stack they were called on: what they go on
// with is the scheduler's. See goCode in internal/cfi.
var goCuts = map[string]bool{
	"runtime.mcall": true, "runtime.morestack": true, "runtime.morestack_noctxt": true, "runtime.gogo": true, "gogo": true,
	"runtime.sigtramp": true, "runtime.mstart": true, "runtime.rt0_go": true, "runtime.goexit": true,
}

func goBaseName(name string) string {
	return strings.TrimSuffix(strings.TrimSuffix(name, ".abi0"), ".abiinternal")
}

// goRelease cuts a version of Go (go1.22.3, go1.26-custom) to its release.
func goRelease(version string) string {
	version, _, _ = strings.Cut(version, " ")
	version, _, _ = strings.Cut(version, "-")
	parts := strings.SplitN(version, ".", 3)
	return strings.Join(parts[:min(len(parts), 2)], ".")
}

// divideGo charges the parts of a Go object. It returns nil for other objects.
func (c *charge) divideGo(l *linked, opts region.Options) (*goProgram, error) {
	if !l.Go {
		return nil, nil
	}
	f, err := objfile.Open(l.object.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	g := &goProgram{
		charge: c, l: l, file: f, virtual: map[goVirtual]int32{}, hubs: map[string]int32{},
		methods: map[string][]int32{}, closures: map[string][]int32{}, takers: map[goTaken][]string{}, inlinedFn: -1, byStart: map[uint64]int32{},
		called: map[string]bool{},
	}
	if g.table, err = f.GoTable(); err != nil {
		return nil, err
	}
	if g.regions, err = region.New(f, opts); err != nil { // what could not be divided is the program's own
		c.openEnds[place{fn: l.first}] = "part of the code could not be divided: " + err.Error()
	}
	if g.types, err = readGoTypes(f, g.table); err != nil {
		return nil, err
	}
	for _, methods := range g.types.interfaces {
		for _, m := range methods {
			g.called[m.name] = true
		}
	}
	goStd()
	if info, err := f.GoBuildInfo(); err == nil {
		g.released = goReleases[goRelease(info.GoVersion)]
	}
	g.findFuncs()
	for at := range c.unresolved {
		if fn := at.fn - l.first; fn < fid(len(g.funcs)) && g.funcs[fn].name != "" {
			delete(c.unresolved, at) // they are looked for anew
		}
	}
	g.findTaken()
	g.connectDirect()
	g.connectIndirect()
	g.followUses()
	g.findBottoms()
	g.solve()
	return g, nil
}

func (g *goProgram) findFuncs() {
	g.funcs = make([]goFunc, len(g.l.Funcs))
	g.nodes = make([]goNode, len(g.l.Funcs))
	for i := range g.l.Funcs {
		start := g.l.Funcs[i].Start
		g.byStart[start] = int32(i)
		n := &g.nodes[i]
		n.fn = int32(i)
		fn := g.table.Find(start)
		if fn == nil || fn.Entry != start {
			continue // C
		}
		f := &g.funcs[i]
		f.name, f.pkg = fn.Name, region.GoPackage(fn.Name)
		f.std = goStd()[f.pkg]
		f.cut = goCuts[goBaseName(fn.Name)]
		n.part = g.regions.Part(fn.Name)
		n.conduit = g.regions.Parts[n.part].Conduit
		if m := goMethod(fn.Name, f.pkg); m != "" {
			g.methods[m] = append(g.methods[m], int32(i))
		}
	}
}

// goMethod returns the name of the method that a function is, by its name
// path.Type.Method or path.(*Type).Method, or "".
func goMethod(name, pkg string) string {
	rest := strings.TrimPrefix(name, pkg)
	if i := strings.LastIndexByte(rest, ']'); i >= 0 {
		open := strings.IndexByte(rest, '[')
		rest = rest[:open] + rest[i+1:]
	}
	slash := strings.LastIndexByte(rest, '/') // the path's last element is escaped in the name
	rest = rest[slash+1:]
	if slash >= 0 {
		if dot := strings.IndexByte(rest, '.'); dot >= 0 {
			rest = rest[dot:]
		}
	}
	elements := strings.Split(strings.TrimPrefix(rest, "."), ".")
	if len(elements) != 2 || strings.HasSuffix(elements[1], "-fm") || elements[1] == "" {
		return ""
	}
	return elements[1]
}

// findTaken collects the functions whose addresses are taken, by the package that does:
// in its code, or, for constant data, their own.
func (g *goProgram) findTaken() {
	g.taken = make([]bool, len(g.funcs))
	for i := range g.funcs {
		for _, ref := range g.l.refs(uint32(i)) {
			if ref.Kind == RefFunc {
				g.take(int32(ref.Target), g.funcs[i].pkg, "")
			}
		}
		for j, call := range g.l.calls(uint32(i)) {
			to := ""
			if call.Kind == CallFunc {
				to = g.funcs[call.Target].pkg
			}
			for _, a := range g.l.args(g.l.firstCall(uint32(i)) + uint32(j)) {
				for _, e := range g.l.members(a.Expr) {
					if e.Op == OpFunc {
						g.take(int32(e.I), g.funcs[i].pkg, to)
					}
				}
			}
		}
	}
	g.takeConstants()
}

// takeConstants takes the functions that variables hold at the start: words with the
// address of a constant func value, which is a word with the address of code.
func (g *goProgram) takeConstants() {
	values := map[uint64]int32{}
	g.eachWord(func(at, w uint64) {
		if fn, ok := g.byStart[w]; ok && g.funcs[fn].name != "" {
			values[at] = fn
		}
	})
	g.eachWord(func(_, w uint64) {
		if fn, ok := values[w]; ok {
			g.taken[fn] = true
			if !isExported(g.funcs[fn].name, g.funcs[fn].pkg) { // those are mostly in others' variables
				g.take(fn, g.funcs[fn].pkg, "")
			}
		}
	})
}

// eachWord calls f with the aligned words of the object's data, as they stand after
// relocation.
func (g *goProgram) eachWord(f func(at, word uint64)) {
	const chunk = 1 << 20
	for _, s := range g.file.Segments {
		if s.Type != elf.PT_LOAD || s.Flags&elf.PF_X != 0 {
			continue
		}
		end := s.Vaddr + s.Filesz
		for at := (s.Vaddr + 7) &^ 7; at < end; at += chunk {
			words, err := g.file.Pointers(objfile.Span{Addr: at, Size: min(chunk, end-at)})
			if err != nil {
				break
			}
			for i, w := range words {
				f(at+8*uint64(i), w)
			}
		}
	}
}

// isExported reports whether a function is one that other packages may name.
func isExported(name, pkg string) bool {
	rest := name[strings.LastIndexByte(name, '/')+1:]
	_, rest, _ = strings.Cut(rest, ".")
	return pkg != "" && rest != "" && rest[0] >= 'A' && rest[0] <= 'Z' && !strings.Contains(rest, ".")
}

// take notes that code of a package takes the address of a function and hands it to one
// of another package, or empty: keeps it or hands it to any.
func (g *goProgram) take(fn int32, pkg, to string) {
	if g.funcs[fn].name == "" || g.funcs[fn].name == "runtime.main" { // that starts the first goroutine
		return
	}
	if other := goStd()[to]; other == nil || to == pkg || other.gives && !goKeepers[to] {
		to = ""
	}
	g.taken[fn] = true
	key := goTaken{fn, pkg}
	list, known := g.takers[key]
	if !known {
		g.closures[pkg] = append(g.closures[pkg], fn)
	}
	if !slices.Contains(list, to) {
		g.takers[key] = append(list, to)
	}
}

// mayHave reports whether code of a package of the standard library may have a func
// value that another one has made.
func (g *goProgram) mayHave(pkg string, made goTaken) bool {
	return slices.ContainsFunc(g.takers[made], func(to string) bool {
		return to == "" || to == pkg || goStd()[to].imports[pkg]
	})
}

// at returns the node of the code at an offset in a function.
func (g *goProgram) at(fn int32, off uint32) int32 {
	offset, ok := g.file.VaddrToOffset(g.l.Funcs[fn].Start + uint64(off))
	if !ok || g.funcs[fn].name == "" {
		return fn
	}
	part := g.regions.Origin(g.regions.Region(offset))
	if part == g.nodes[fn].part {
		return fn
	}
	key := goVirtual{fn, part}
	v, ok := g.virtual[key]
	if !ok {
		v = int32(len(g.nodes))
		g.virtual[key] = v
		g.nodes = append(g.nodes, goNode{fn: fn, part: part, conduit: g.regions.Parts[part].Conduit})
		g.addEdge(fn, goEdge{to: v, off: off})
	}
	return v
}

func (g *goProgram) addEdge(from int32, e goEdge) {
	edges := g.nodes[from].edges
	for i := len(edges) - 1; i >= 0 && i >= len(edges)-8; i-- { // mostly repeated at once
		if edges[i] == e {
			return
		}
	}
	g.nodes[from].edges = append(edges, e)
}

// connectDirect adds the system calls and the calls of known functions.
func (g *goProgram) connectDirect() {
	for i := range g.l.Funcs {
		f := g.l.first + fid(i)
		if g.funcs[i].name == "" {
			g.nodes[i].through = g.through[f]
			continue
		}
		for _, site := range g.l.sites(uint32(i)) {
			for _, e := range g.l.members(site.Expr) {
				g.site(int32(i), site, e)
			}
		}
		for _, e := range g.edges[f] {
			to := e.to - g.l.first
			if to >= fid(len(g.funcs)) || g.funcs[to].cut {
				continue
			}
			g.addEdge(g.at(int32(i), e.off), goEdge{int32(to), e.off, e.tail})
		}
		first := g.l.firstCall(uint32(i))
		for j, call := range g.l.calls(uint32(i)) {
			if call.Kind == CallFunc {
				g.funcs[call.Target].calls = append(g.funcs[call.Target].calls, goCallSite{int32(i), first + uint32(j)})
			}
		}
	}
}

// site adds a system call instruction.
func (g *goProgram) site(fn int32, s Site, number Expr) {
	switch {
	case number.Op == OpConst:
		g.number(g.at(fn, s.Off), s.ABI, number.N, goWay{s.Off, -1, 0})
	case number.Op == OpParam:
		g.use(fn, goUse{goUsed{uint8(number.I), goNumber, ""}, goWay{s.Off, -1, 0}})
	case number.Op == OpStackParam && number.N == 8:
		g.use(fn, goUse{goUsed{regStack, goNumber, ""}, goWay{s.Off, -1, 0}})
	default:
		g.unresolvedAt(fn, s.Off)
	}
}

func (g *goProgram) number(node int32, abi SiteABI, nr int64, way goWay) {
	no := numberOf(numbered{abi: abi, nr: int(uint32(nr))})
	call, ok := g.index[no]
	if !ok || g.charge.calls[call] != no {
		if fn := g.nodes[node].fn; fn >= 0 { // one that the analysis of all code has not found
			g.unresolvedAt(fn, way.off)
		}
		return
	}
	n := &g.nodes[node]
	if n.own.has(call) {
		return
	}
	n.own.add(call)
	if n.ways == nil {
		n.ways = map[int]goWay{}
	}
	n.ways[call] = way
}

func (g *goProgram) unresolvedAt(fn int32, off uint32) {
	g.unresolved[place{g.l.first + fid(fn), off}] = true
}

// connectIndirect adds the calls through func values and interfaces.
func (g *goProgram) connectIndirect() {
	for i := range g.funcs {
		name := goBaseName(g.funcs[i].name)
		switch {
		case name == "", name == "runtime.gogo", name == "gogo":
			continue
		case name == "runtime.doInit1", name == "runtime.doInit", name == "runtime.main":
			g.connectInits(int32(i))
		case name == "runtime.asmcgocall", name == "runtime.asmcgocall_no_g":
			g.addEdge(int32(i), goEdge{to: g.hub("C", g.isC)})
			continue
		}
		for _, call := range g.l.calls(uint32(i)) {
			if call.Kind != CallIndirect {
				continue
			}
			for _, e := range g.l.members(call.Target) {
				g.callGo(int32(i), call.Off, call.Tail, e)
			}
		}
	}
}

func (g *goProgram) isC(fn int32) bool { return g.funcs[fn].name == "" }

// connectInits lets a function of the runtime call all initialisers of packages.
func (g *goProgram) connectInits(fn int32) {
	g.addEdge(fn, goEdge{to: g.hub("init", func(f int32) bool {
		rest := strings.TrimPrefix(g.funcs[f].name, g.funcs[f].pkg)
		if i := strings.LastIndexByte(rest, '/'); i >= 0 {
			rest = rest[i:]
			rest = rest[max(strings.IndexByte(rest, '.'), 0):]
		}
		return rest == ".init" || strings.HasPrefix(rest, ".init.") || strings.HasPrefix(rest, ".map.init.") ||
			g.funcs[f].name == "main.main"
	})})
}

// hub returns the node of a set of functions.
func (g *goProgram) hub(name string, has func(int32) bool) int32 {
	h, ok := g.hubs[name]
	if !ok {
		h = g.newHub(name)
		for i := range g.funcs {
			if has(int32(i)) {
				g.nodes[h].edges = append(g.nodes[h].edges, goEdge{to: int32(i)})
			}
		}
	}
	return h
}

func (g *goProgram) newHub(name string) int32 {
	h := int32(len(g.nodes))
	g.hubs[name] = h
	g.nodes = append(g.nodes, goNode{fn: -1, conduit: true})
	return h
}

// callGo follows an indirect call at an offset in a function.
func (g *goProgram) callGo(fn int32, off uint32, tail bool, e Expr) {
	node := g.at(fn, off)
	switch e.Op {
	case OpFunc:
		return // an edge already
	case OpDeferred:
		for _, ref := range g.l.refs(uint32(fn)) {
			if ref.Kind == RefFunc {
				g.addEdge(node, goEdge{int32(ref.Target), off, tail})
			}
		}
		return
	case OpSlot: // else a variable of assembly: the vDSO's functions, which make no calls of their own here
		if to, ok := g.constantFunc(uint64(e.N)); ok {
			g.addEdge(node, goEdge{to, off, tail})
		}
		return
	case OpLoad:
		base := g.l.Exprs[e.I]
		switch base.Op {
		case OpSlot: // a variable: what it holds at the start, or later
			if value, ok := g.constantWord(uint64(base.N)); ok {
				if to, ok := g.constantFunc(value + uint64(e.N)); ok {
					g.addEdge(node, goEdge{to, off, tail})
				}
			}
		case OpData:
			if to, ok := g.constantFunc(uint64(base.N + e.N)); ok {
				g.addEdge(node, goEdge{to, off, tail})
				return
			}
		case OpParam:
			g.use(fn, goUse{goUsed{uint8(base.I), e.N, g.userAt(fn, off, e.N)}, goWay{}})
			return
		case OpStackParam:
			if base.N == 8 {
				g.use(fn, goUse{goUsed{regStack, e.N, g.userAt(fn, off, e.N)}, goWay{}})
				return
			}
		}
		if e.N >= itabMethods && e.N%8 == 0 {
			g.addEdge(node, goEdge{g.interfaceHub(g.namerAt(fn, off), int(e.N-itabMethods)/8), off, tail})
			return
		}
	}
	if pkg := g.packageAt(fn, off); goKeepers[pkg] {
		g.use(fn, goUse{goUsed{0, goKept, pkg}, goWay{}})
	} else {
		g.addEdge(node, goEdge{g.closureHub(pkg), off, tail})
	}
}

// goKeepers are packages that keep func values for their callers and call them for
// these: sync.Pool, sync.Once, sync.OnceFunc.
var goKeepers = map[string]bool{"sync": true, "internal/sync": true}

func (g *goProgram) userAt(fn int32, off uint32, offset int64) string {
	if offset >= itabMethods {
		return g.namerAt(fn, off)
	}
	return g.packageAt(fn, off)
}

// constantFunc returns the function whose address is in a word of the file.
func (g *goProgram) constantFunc(addr uint64) (int32, bool) {
	word, _ := g.constantWord(addr)
	fn, ok := g.byStart[word]
	return fn, ok
}

func (g *goProgram) constantWord(addr uint64) (uint64, bool) {
	words, err := g.file.Pointers(objfile.Span{Addr: addr, Size: 8})
	if err != nil || len(words) == 0 {
		return 0, false
	}
	return words[0], true
}

// packageAt returns the package whose code is at an offset in a function: another one's
// where that was inlined.
func (g *goProgram) packageAt(fn int32, off uint32) string {
	return region.GoPackage(g.functionAt(fn, off))
}

// inlined returns the functions that the code at an offset in a function was inlined
// from, innermost first.
func (g *goProgram) inlined(fn int32, off uint32) []string {
	start := g.l.Funcs[fn].Start
	if g.inlinedFn != fn || g.inlinedList == nil {
		g.inlinedFn, g.inlinedList = fn, g.inlinedList[:0]
		if f := g.table.Find(start); f != nil {
			if list, err := g.table.AppendInlinings(g.inlinedList, f); err == nil {
				g.inlinedList = list
			}
		}
	}
	i := sort.Search(len(g.inlinedList), func(i int) bool { return g.inlinedList[i].PC > start+uint64(off) }) - 1
	if i < 0 {
		return nil
	}
	return g.inlinedList[i].Names
}

func (g *goProgram) functionAt(fn int32, off uint32) string {
	if inlined := g.inlined(fn, off); len(inlined) > 0 {
		return inlined[0]
	}
	return g.funcs[fn].name
}

// namerAt returns the package that names the interfaces whose methods are called at an
// offset in a function, and behind a blank the function if it is known what it calls. It
// is empty for generic functions, which may call those of their caller's types.
func (g *goProgram) namerAt(fn int32, off uint32) string {
	name := g.functionAt(fn, off)
	if strings.Contains(name, "[") {
		return ""
	}
	pkg := region.GoPackage(name)
	std := goStd()[pkg]
	if std == nil || !g.released {
		return pkg
	}
	// Closures have the name of the function around them and more.
	function := strings.TrimPrefix(name[len(name)-len(lastElement(name, pkg)):], ".")
	for function != "" {
		if std.calls[function] != nil {
			return pkg + " " + function
		}
		function = function[:max(strings.LastIndexAny(function, ".-"), 0)]
	}
	return pkg
}

// lastElement returns what is behind the package in a function's name, in which the
// path may be escaped.
func lastElement(name, pkg string) string {
	if rest, ok := strings.CutPrefix(name, pkg); ok {
		return rest
	}
	rest := name[strings.LastIndexByte(name, '/')+1:]
	return rest[max(strings.IndexByte(rest, '.'), 0):]
}

func (g *goProgram) use(fn int32, u goUse) {
	f := &g.funcs[fn]
	if !slices.ContainsFunc(f.uses, func(have goUse) bool { return have.goUsed == u.goUsed }) {
		f.uses = append(f.uses, u)
	}
}

// interfaceHub returns the hub of the methods that code may call at an index of an
// interface. It is given by its package, or by the function where its calls are known.
// A package calls methods of the interfaces that its source names; for those of the
// standard library these are known.
func (g *goProgram) interfaceHub(code string, slot int) int32 {
	pkg, function, _ := strings.Cut(code, " ")
	std := goStd()[pkg]
	if std == nil {
		code = ""
	}
	name := fmt.Sprintf("methods %d of %s", slot, code)
	if h, ok := g.hubs[name]; ok {
		return h
	}
	h := g.newHub(name)
	seen := map[goMethodType]bool{}
	for _, methods := range g.types.interfaces {
		if slot >= len(methods) || seen[methods[slot]] || std != nil && !std.names(methods) ||
			function != "" && !slices.Contains(std.calls[function], methods[slot].name) {
			continue
		}
		seen[methods[slot]] = true
		g.nodes[h].edges = append(g.nodes[h].edges, goEdge{to: g.methodHub(methods[slot])})
	}
	return h
}

// methodHub returns the hub of the functions that a method of an interface may be.
func (g *goProgram) methodHub(m goMethodType) int32 {
	name := fmt.Sprintf("method %s of type %d", m.name, m.typ)
	if h, ok := g.hubs[name]; ok {
		return h
	}
	var funcs []int32
	for _, f := range g.methods[m.name] {
		if types := g.types.methods[g.l.Funcs[f].Start]; len(types) == 0 || slices.Contains(types, m) {
			funcs = append(funcs, f)
		}
	}
	return g.hubOf(name, funcs)
}

func (g *goProgram) hubOf(name string, funcs []int32) int32 {
	h, ok := g.hubs[name]
	if !ok {
		h = g.newHub(name)
		for _, f := range funcs {
			g.nodes[h].edges = append(g.nodes[h].edges, goEdge{to: f})
		}
	}
	return h
}

// closureHub returns the hub of the func values that code of a package may call.
func (g *goProgram) closureHub(pkg string) int32 {
	std := goStd()[pkg]
	if std == nil {
		pkg = ""
	}
	if region.IsRuntime(pkg) && pkg != "" {
		pkg = "runtime"
	}
	name := "closures of " + pkg
	if h, ok := g.hubs[name]; ok {
		return h
	}
	h := g.newHub(name)
	for from, funcs := range g.closures {
		other := goStd()[from]
		if pkg == "runtime" && !region.IsRuntime(from) {
			continue // others' functions run as goroutines, on stacks of their own
		}
		if from == pkg || other == nil || std == nil && other.gives || std != nil && other.imports[pkg] {
			to := g.hubOf("closures made by "+from, funcs)
			if std != nil && other != nil && from != pkg {
				to = g.hubOf("closures made by "+from+" for "+pkg, g.given(pkg, from))
			}
			g.nodes[h].edges = append(g.nodes[h].edges, goEdge{to: to})
		}
	}
	if pkg == "runtime" {
		timers := g.hub("timers", func(fn int32) bool { return g.funcs[fn].name == "time.goFunc" || g.funcs[fn].name == "time.sendTime" })
		g.nodes[h].edges = append(g.nodes[h].edges, goEdge{to: timers})
	}
	return h
}

// given returns the functions that a package has taken and code of another may have.
func (g *goProgram) given(pkg, from string) []int32 {
	var out []int32
	for _, fn := range g.closures[from] {
		if g.mayHave(pkg, goTaken{fn, from}) {
			out = append(out, fn)
		}
	}
	return out
}

// followUses connects functions that call their parameters with what callers hand over:
// at the caller where the function is a conduit, so that each is charged with what it
// hands over itself.
func (g *goProgram) followUses() {
	var work []int32
	for i := range g.funcs {
		if len(g.funcs[i].uses) > 0 {
			work = append(work, int32(i))
		}
	}
	done := make([]int, len(g.funcs)) // uses that were followed
	for len(work) > 0 {
		fn := work[len(work)-1]
		work = work[:len(work)-1]
		for ; done[fn] < len(g.funcs[fn].uses); done[fn]++ {
			u := g.funcs[fn].uses[done[fn]]
			for _, site := range g.funcs[fn].calls {
				if g.handOver(fn, u, site) {
					work = append(work, site.fn)
				}
			}
			switch {
			case u.offset == goKept:
			case u.offset == goNumber && g.taken[fn]:
				g.unresolvedAt(fn, u.way.off)
			case u.offset != goNumber && g.dispatched(fn):
				g.addEdge(fn, goEdge{to: g.useHub(u)})
			}
		}
	}
}

// dispatched reports whether a function may be called through a func value or an
// interface.
func (g *goProgram) dispatched(fn int32) bool {
	m := goMethod(g.funcs[fn].name, g.funcs[fn].pkg)
	return g.taken[fn] || g.called[m]
}

func (g *goProgram) useHub(u goUse) int32 {
	if u.offset >= itabMethods {
		return g.interfaceHub(u.pkg, int(u.offset-itabMethods)/8)
	}
	return g.closureHub(u.pkg)
}

// handOver follows what a call site hands over for a use, and reports whether that is a
// parameter of the caller, which then has a use of its own that is new.
func (g *goProgram) handOver(fn int32, u goUse, site goCallSite) (forwarded bool) {
	call := &g.l.Calls[site.call]
	caller := g.at(site.fn, call.Off)
	charged := caller
	if !g.nodes[fn].conduit || g.funcs[fn].cut {
		charged = fn
	}
	if u.offset == goKept {
		return g.handBack(u, site, caller, call)
	}
	known := false
	for _, a := range g.l.args(site.call) {
		if a.Reg != u.reg {
			continue
		}
		known = true
		for _, e := range g.l.members(a.Expr) {
			to, ok := int32(0), false
			switch {
			case e.Op == OpConst && u.offset == goNumber:
				g.number(charged, SiteAMD64, e.N, goWay{call.Off, fn, u.reg})
				continue
			case e.Op == OpSlot && u.offset == goNumber && g.funcs[site.fn].std != nil:
				// Variables of package syscall, such as fcntl64Syscall, keep their numbers.
				if n, found := g.constantWord(uint64(e.N)); found && n < maxNumber {
					g.number(charged, SiteAMD64, int64(n), goWay{call.Off, fn, u.reg})
					continue
				}
			case e.Op == OpFunc && u.offset == 0:
				to, ok = int32(e.I), true
			case e.Op == OpData && u.offset >= 0:
				to, ok = g.constantFunc(uint64(e.N + u.offset))
			case e.Op == OpParam && charged == caller:
				before := len(g.funcs[site.fn].uses)
				g.use(site.fn, goUse{goUsed{uint8(e.I), u.offset, u.pkg}, goWay{call.Off, fn, u.reg}})
				forwarded = forwarded || len(g.funcs[site.fn].uses) > before
				continue
			}
			if !ok {
				g.unknownUse(charged, site.fn, call, u)
				continue
			}
			g.addEdge(charged, goEdge{to, call.Off, call.Tail})
		}
	}
	if !known {
		g.unknownUse(charged, site.fn, call, u)
	}
	return forwarded
}

// handBack lets a function that was kept for a caller's package be called there.
func (g *goProgram) handBack(u goUse, site goCallSite, caller int32, call *Call) (forwarded bool) {
	pkg := g.packageAt(site.fn, call.Off)
	if goKeepers[pkg] {
		before := len(g.funcs[site.fn].uses)
		g.use(site.fn, u)
		return len(g.funcs[site.fn].uses) > before
	}
	g.addEdge(caller, goEdge{g.hubOf("closures made by "+pkg, g.closures[pkg]), call.Off, call.Tail})
	return false
}

// unknownUse follows a use of what a call hands over and is not known.
func (g *goProgram) unknownUse(charged, caller int32, call *Call, u goUse) {
	if u.offset == goNumber {
		g.unresolvedAt(caller, call.Off)
		return
	}
	g.addEdge(charged, goEdge{g.useHub(u), call.Off, call.Tail})
}

// findBottoms finds the conduits' functions at the outer end of stacks: where threads
// and signal handlers begin, what the scheduler runs, and goroutines.
func (g *goProgram) findBottoms() {
	started := map[int32]bool{}
	start := func(fn int32) {
		if g.nodes[fn].conduit && !started[fn] {
			started[fn] = true
			g.bottoms = append(g.bottoms, fn)
		}
	}
	for i := range g.funcs {
		fn := g.table.Find(g.l.Funcs[i].Start)
		if g.funcs[i].name == "" || fn == nil {
			continue
		}
		if g.funcs[i].cut || fn.Flags&objfile.GoTopFrame != 0 || strings.HasPrefix(fn.Name, "_rt0_") || fn.Name == "runtime.main" {
			start(int32(i))
		}
	}
	for i := range g.funcs {
		if name := goBaseName(g.funcs[i].name); name == "runtime.newproc" || name == "time.AfterFunc" {
			g.goroutines(int32(i), name == "time.AfterFunc", start)
		}
	}
}

// goroutines starts what the callers of a function hand over to run as a goroutine.
func (g *goProgram) goroutines(fn int32, second bool, start func(int32)) {
	reg := uint8(0) // rax
	if second {
		reg = 3 // rbx
	}
	for _, site := range g.funcs[fn].calls {
		known := false
		for _, a := range g.l.args(site.call) {
			for _, e := range g.l.members(a.Expr) {
				if a.Reg == reg && e.Op == OpFunc {
					known = true
					start(int32(e.I))
				}
			}
		}
		if known {
			continue
		}
		for _, ref := range g.l.refs(uint32(site.fn)) {
			if ref.Kind == RefFunc {
				start(int32(ref.Target))
			}
		}
	}
}

// solve propagates what happens below functions to their callers, to the least fixed
// point.
func (g *goProgram) solve() {
	for i := range g.nodes {
		if n := &g.nodes[i]; n.conduit {
			n.through.union(&n.own)
		}
	}
	for changed := true; changed; {
		changed = false
		for i := len(g.nodes) - 1; i >= 0; i-- {
			n := &g.nodes[i]
			for _, e := range n.edges {
				if (n.conduit || e.tail) && n.through.union(&g.nodes[e.to].through) {
					changed = true
				}
			}
		}
	}
}

// A goOrigin is what one part is charged with.
type goOrigin struct {
	part uint16
	set  callset
	vias map[int]map[string]bool // by call: the conduits' functions through which it leaves the part
}

// origins charges the parts.
func (g *goProgram) origins() []*goOrigin {
	byPart := make([]*goOrigin, len(g.regions.Parts))
	of := func(part uint16) *goOrigin {
		if byPart[part] == nil {
			byPart[part] = &goOrigin{part: part, vias: map[int]map[string]bool{}}
		}
		return byPart[part]
	}
	for i := range g.nodes {
		n := &g.nodes[i]
		if n.fn < 0 || n.conduit || g.funcs[n.fn].name == "" {
			continue
		}
		o := of(n.part)
		o.set.union(&n.own)
		for _, e := range n.edges {
			if to := &g.nodes[e.to]; to.through != (callset{}) {
				o.set.union(&to.through)
				g.addVias(o, n, e)
			}
		}
	}
	for _, b := range g.bottoms {
		of(g.nodes[b].part).set.union(&g.nodes[b].through)
	}
	var all callset
	for _, o := range byPart {
		if o != nil {
			all.union(&o.set)
		}
	}
	for i := range g.nodes { // none is left out
		if n := &g.nodes[i]; n.fn >= 0 && g.funcs[n.fn].name != "" {
			n.own.each(func(call int) {
				if !all.has(call) {
					of(n.part).set.add(call)
				}
			})
		}
	}
	var out []*goOrigin
	for _, o := range byPart {
		if o == nil {
			continue
		}
		// The return from a signal handler is charged to the code interrupted.
		if at, ok := g.index[sigreturn]; ok {
			o.set.add(at)
		}
		out = append(out, o)
	}
	return out
}

// maxVias bounds the functions that are named for one call through a func value.
const maxVias = 8

func (g *goProgram) addVias(o *goOrigin, n *goNode, e goEdge) {
	var names []string
	to := &g.nodes[e.to]
	if via := g.inlinedVia(n.fn, e.off); via != "" {
		names = []string{via}
	} else if to.fn >= 0 && to.conduit {
		names = []string{g.funcs[to.fn].name}
	} else if to.fn < 0 && len(to.edges) <= maxVias {
		for _, e := range to.edges {
			if f := g.nodes[e.to].fn; f >= 0 && g.nodes[e.to].conduit {
				names = append(names, g.funcs[f].name)
			}
		}
	}
	to.through.each(func(call int) {
		if o.vias[call] == nil {
			o.vias[call] = map[string]bool{}
		}
		for _, name := range names {
			o.vias[call][name] = true
		}
	})
}

// inlinedVia names the conduit's function that was inlined at an offset of a function
// and that its innermost other code calls.
func (g *goProgram) inlinedVia(fn int32, off uint32) string {
	inlined := g.inlined(fn, off)
	for i := range inlined {
		if !g.regions.Parts[g.regions.Part(inlined[i])].Conduit {
			if i == 0 {
				return ""
			}
			return inlined[i-1]
		}
	}
	if len(inlined) == 0 {
		return ""
	}
	return inlined[len(inlined)-1]
}

// goPaths finds shortest witnesses of one system call at a time.
type goPaths struct {
	*goProgram
	callers [][]goEdge // to is the caller
	dist    []int32    // -1: cannot make the call
	next    []goEdge
	queue   []int32
}

func newGoPaths(g *goProgram) *goPaths {
	p := &goPaths{goProgram: g, callers: make([][]goEdge, len(g.nodes)), dist: make([]int32, len(g.nodes)), next: make([]goEdge, len(g.nodes))}
	for i := range g.nodes {
		if n := &g.nodes[i]; n.conduit {
			for _, e := range n.edges {
				p.callers[e.to] = append(p.callers[e.to], goEdge{int32(i), e.off, e.tail})
			}
		}
	}
	return p
}

func (p *goPaths) search(call int) {
	p.queue = p.queue[:0]
	for i := range p.nodes {
		p.dist[i] = -1
		if n := &p.nodes[i]; n.conduit && n.own.has(call) {
			p.dist[i] = 0
			p.queue = append(p.queue, int32(i))
		}
	}
	for at := 0; at < len(p.queue); at++ {
		n := p.queue[at]
		for _, e := range p.callers[n] {
			if p.dist[e.to] < 0 {
				p.dist[e.to], p.next[e.to] = p.dist[n]+1, goEdge{n, e.off, e.tail}
				p.queue = append(p.queue, e.to)
			}
		}
	}
}

// goStep is one instruction of a witness.
type goStep struct {
	node int32
	off  uint32
}

// witnesses returns, for each part, a shortest path from its code to the call that was
// searched for, outermost first.
func (p *goPaths) witnesses(call int) map[uint16][]goStep {
	type door struct {
		dist int32
		from goStep
		to   int32 // -1: the instruction itself
	}
	best := map[uint16]door{}
	consider := func(part uint16, d door) {
		if have, ok := best[part]; !ok || d.dist < have.dist {
			best[part] = d
		}
	}
	for i := range p.nodes {
		n := &p.nodes[i]
		if n.fn < 0 || n.conduit {
			continue
		}
		if n.own.has(call) {
			consider(n.part, door{0, goStep{int32(i), 0}, -1})
			continue
		}
		for _, e := range n.edges {
			if d := p.dist[e.to]; d >= 0 {
				consider(n.part, door{d + 1, goStep{int32(i), e.off}, e.to})
			}
		}
	}
	for _, b := range p.bottoms {
		if d := p.dist[b]; d >= 0 {
			consider(p.nodes[b].part, door{d, goStep{-1, 0}, b})
		}
	}
	out := map[uint16][]goStep{}
	for part, d := range best {
		var steps []goStep
		switch {
		case d.to < 0:
			steps = p.down(d.from.node, call)
		case d.from.node >= 0:
			steps = append(steps, d.from)
		}
		for at := d.to; at >= 0; {
			if p.dist[at] == 0 {
				steps = append(steps, p.down(at, call)...)
				break
			}
			steps = append(steps, goStep{at, p.next[at].off})
			at = p.next[at].to
		}
		out[part] = steps
	}
	return out
}

// down returns the steps from a node that hands over the number of a call to the
// instruction.
func (p *goPaths) down(node int32, call int) []goStep {
	way := p.nodes[node].ways[call]
	steps := []goStep{{node, way.off}}
	for way.next >= 0 && len(steps) < maxWitness {
		fn, reg := way.next, way.reg
		i := slices.IndexFunc(p.funcs[fn].uses, func(u goUse) bool { return u.reg == reg && u.offset == goNumber })
		if i < 0 {
			break
		}
		way = p.funcs[fn].uses[i].way
		steps = append(steps, goStep{fn, way.off})
	}
	return steps
}

// chargeC charges a Go object for its functions that are not Go's alone: those of C
// that cgo has linked.
func (c *charge) chargeC(o *origin, g *goProgram) {
	*o = origin{object: o.object, direct: map[int]fid{}, exits: map[fid]step{}, opener: noFunc}
	for i := range g.funcs {
		if f := g.l.first + fid(i); g.funcs[i].name == "" && c.reached[f] {
			c.chargeFunction(o, f)
		}
	}
}
