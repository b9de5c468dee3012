package analysis

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"bulkhead/internal/cfi"
	"bulkhead/internal/disasm"
	"bulkhead/internal/objfile"
)

// A codeRange is a function's code.
type codeRange struct {
	start, end uint64
	// closed says that nothing enters the code but calls and its own jumps: it has
	// unwind information, and that names no landing pads.
	closed bool
	gap    bool // swept, not named by anything: may be data
}

// A pointer is an aligned word of the image that holds an address.
type pointer struct {
	place    uint64
	addr     uint64 // what it points at in this object, unless kind is SlotImport
	kind     SlotKind
	target   uint32 // import
	addend   int64
	constant bool // nothing writes it once the dynamic loader is done
}

// A scanner builds the summary of one object.
type scanner struct {
	f    *objfile.File
	img  *image
	sum  *Summary
	pie  bool // addresses are relocated: no constant in the code is one
	low  uint64
	high uint64

	code     []codeRange // executable areas, sorted
	ranges   []codeRange // functions, sorted
	pointers []pointer   // sorted by place
	imports  map[uint32]uint32
	// entries are places inside functions that are entered from elsewhere.
	entries map[uint32][]uint64
	late    map[uint32]bool // functions that got an entry after their walk

	idle      uint64          // the entry of a function that is never called, or 0
	judged    map[uint64]bool // entries of code that nothing describes: is it code
	noReturn  []bool          // functions that do not return; nil until all are walked
	resolvers map[uint32]bool // functions that return an address for a relocation
	argRegs   disasm.RegSet
	scratch   disasm.RegSet

	facts    []funcFacts
	calls    []rawCall
	args     []Arg
	refs     []Ref
	sites    []Site
	rets     []uint32
	gaps     []Gap
	texts    []rawString
	names    []Name
	triggers []string // constants that plug-in loaders name, sorted
	exprs    map[Expr]uint32
	whens    map[When]uint32
	starts   map[uint64]bool // addresses of data that code or data names
	tls      map[uint64]bool // linkage table words that describe thread-local variables
}

// funcFacts are a function's runs in the scanner's tables.
type funcFacts struct {
	calls, refs, sites, rets, gaps, names [2]int
	escapes, uses, tests                  uint32
	returns, streams                      bool
}

type rawCall struct {
	Call
	args  [2]int
	texts [2]int
}

type rawString struct {
	reg  uint8
	text string
}

// Summarize reads an object and says what its code and data can do. Functions
// that name one of the constants in triggers, which is sorted, are noted.
func Summarize(f *objfile.File, triggers []string) (*Summary, error) {
	if f.Class != 64 || f.Machine != elf.EM_X86_64 {
		return nil, fmt.Errorf("analyse %s: %v code of %d bits is not supported", f.Name, f.Machine, f.Class)
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return nil, fmt.Errorf("analyse %s: %v is neither a program nor a shared library", f.Name, f.Type)
	}
	s := &scanner{
		f: f, sum: &Summary{BuildID: f.BuildID, Interp: f.Interp}, pie: f.Type == elf.ET_DYN,
		imports: map[uint32]uint32{}, entries: map[uint32][]uint64{}, late: map[uint32]bool{},
		resolvers: map[uint32]bool{}, exprs: map[Expr]uint32{}, whens: map[When]uint32{}, starts: map[uint64]bool{}, tls: map[uint64]bool{}, judged: map[uint64]bool{},
		argRegs: argsC, scratch: scratchC, triggers: triggers,
	}
	for _, step := range []func() error{s.readImage, s.findFunctions, s.readPointers, s.readSymbols, s.readRoots} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	s.findLazyResolvers()
	s.walkAll()
	s.assemble()
	return s.sum, nil
}

func (s *scanner) readImage() error {
	img, err := readImage(s.f)
	if err != nil {
		return err
	}
	s.img = img
	if len(img.parts) == 0 {
		return fmt.Errorf("analyse %s: nothing to load", s.f.Name)
	}
	if sec := s.f.Section("__libc_IO_vtables"); sec != nil {
		s.sum.Streams = [2]uint64{sec.Addr, sec.Addr + sec.Size}
	}
	s.low, s.high = img.parts[0].addr, img.parts[len(img.parts)-1].end
	for _, sec := range s.f.Sections {
		if sec.Flags&elf.SHF_EXECINSTR != 0 && sec.Flags&elf.SHF_ALLOC != 0 && sec.Type == elf.SHT_PROGBITS && img.isCode(sec.Addr) {
			s.code = append(s.code, codeRange{start: sec.Addr, end: min(sec.Addr+sec.Size, img.at(sec.Addr).end)})
		}
	}
	if len(s.code) == 0 {
		for _, p := range img.parts {
			if p.exec {
				s.code = append(s.code, codeRange{start: p.addr, end: p.addr + uint64(len(p.data))})
			}
		}
	}
	sortRanges(s.code)
	return nil
}

func sortRanges(r []codeRange) {
	slices.SortFunc(r, func(a, b codeRange) int {
		if a.start != b.start {
			return compare(a.start, b.start)
		}
		return compare(b.end, a.end)
	})
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// isCode reports whether addr is in an executable area.
func (s *scanner) isCode(addr uint64) bool {
	i := sort.Search(len(s.code), func(i int) bool { return s.code[i].end > addr })
	return i < len(s.code) && s.code[i].start <= addr
}

// isAddress reports whether a constant lies in the object: it may be an address
// in a program that is not relocated.
func (s *scanner) isAddress(n int64) bool {
	return uint64(n) >= s.low && uint64(n) < s.high && s.low >= 0x1000
}

// funcAt returns the function that holds addr.
func (s *scanner) funcAt(addr uint64) (uint32, bool) {
	i := sort.Search(len(s.ranges), func(i int) bool { return s.ranges[i].start > addr }) - 1
	if i < 0 || addr >= s.ranges[i].end {
		return 0, false
	}
	return uint32(i), true
}

// pointer returns the pointer at a place.
func (s *scanner) pointer(place uint64) (*pointer, bool) {
	i, ok := slices.BinarySearchFunc(s.pointers, place, func(p pointer, a uint64) int { return compare(p.place, a) })
	if !ok {
		return nil, false
	}
	return &s.pointers[i], true
}

// pointerAt returns the address that the word at a place holds once relocated.
func (s *scanner) pointerAt(place uint64) uint64 {
	if p, ok := s.pointer(place); ok && p.kind != SlotImport {
		return p.addr
	}
	if s.pie {
		return 0
	}
	return s.img.word(place)
}

// findFunctions lists the functions: unwind entries, then Go's table, then
// symbols, then what is left between them.
func (s *scanner) findFunctions() error {
	var ranges []codeRange
	// Unwind information that cannot be read leaves its code to the sweep.
	fdes, _ := cfi.FDEs(s.f)
	for _, e := range fdes {
		if e.Signal {
			e.Begin++ // the entry of a signal trampoline starts one byte early
		}
		if s.isCode(e.Begin) && e.End > e.Begin {
			ranges = append(ranges, codeRange{start: e.Begin, end: e.End, closed: !e.Landing})
		}
	}
	table, err := s.f.GoTable()
	if err != nil && !errors.Is(err, objfile.ErrNoGoTable) {
		return fmt.Errorf("analyse %s: %w", s.f.Name, err)
	}
	if table != nil {
		s.sum.Go = true
		s.argRegs, s.scratch = argsC|argsGo, scratchG
		broadcast := slices.ContainsFunc(table.Funcs, func(fn objfile.GoFunc) bool { return fn.Name == goBroadcast })
		for _, fn := range table.Funcs {
			if fn.Name == goRepeat && !broadcast {
				s.idle = fn.Entry
			}
			if s.isCode(fn.Entry) && fn.End > fn.Entry {
				ranges = append(ranges, codeRange{start: fn.Entry, end: fn.End, closed: true})
			}
		}
	}
	s.ranges = disjoint(ranges, s.code)
	symbols, err := s.f.Symbols()
	if err != nil && symbols == nil {
		return err
	}
	var extra []codeRange
	starts := map[uint64]bool{}
	for i := range symbols {
		sym := &symbols[i]
		if sym.Type != elf.STT_FUNC && sym.Type != elf.STT_GNU_IFUNC || sym.Shndx == elf.SHN_UNDEF || !s.isCode(sym.Value) {
			continue
		}
		if _, ok := s.funcAt(sym.Value); ok {
			continue
		}
		if sym.Size > 0 && sym.Value+sym.Size > sym.Value {
			extra = append(extra, codeRange{start: sym.Value, end: sym.Value + sym.Size})
		} else {
			starts[sym.Value] = true
		}
	}
	s.ranges = disjoint(append(s.ranges, extra...), s.code)
	s.sweepGaps(starts)
	s.joinFallThrough()
	return nil
}

// joinFallThrough makes one function of neighbours where the first runs on into
// the second: assembly ends an unwind entry in mid-function to change its rules.
func (s *scanner) joinFallThrough() {
	if s.sum.Go {
		return
	}
	out := s.ranges[:0]
	for _, r := range s.ranges {
		if n := len(out); n > 0 && out[n-1].end == r.start && s.runsOver(out[n-1]) {
			out[n-1].end = r.end
			out[n-1].closed = out[n-1].closed && r.closed
			out[n-1].gap = out[n-1].gap && r.gap
			continue
		}
		out = append(out, r)
	}
	s.ranges = out
}

func (s *scanner) runsOver(r codeRange) bool {
	over := false
	s.sweep(r, func(_ uint64, sh *disasm.Shape) {
		over = sh.FallsThrough() && !sh.IsCall() && !isNop(sh)
	})
	return over
}

// Go's runtime repeats a system call in every thread for goBroadcast, which leaves
// the number in memory, where the signal handler calls goRepeat. Where the linker
// has dropped the one, the other is never called.
const (
	goBroadcast = "syscall.runtime_doAllThreadsSyscall"
	goRepeat    = "runtime.runPerThreadSyscall"
)

// disjoint sorts ranges and cuts overlaps: a range ends where the next starts,
// or where its area ends; one inside another is left out.
func disjoint(ranges, areas []codeRange) []codeRange {
	sortRanges(ranges)
	out := ranges[:0]
	for _, r := range ranges {
		if n := len(out); n > 0 {
			last := &out[n-1]
			if r.start == last.start || r.end <= last.end {
				continue
			}
			if r.start < last.end {
				last.end = r.start
			}
		}
		i := sort.Search(len(areas), func(i int) bool { return areas[i].end > r.start })
		if i < len(areas) {
			r.end = min(r.end, areas[i].end)
		}
		out = append(out, r)
	}
	return out
}

// sweepGaps makes functions of the code between those that are known. Calls into
// a gap, from anywhere, start functions there.
func (s *scanner) sweepGaps(starts map[uint64]bool) {
	gaps := s.findGaps()
	if len(gaps) == 0 {
		return
	}
	inGap := func(a uint64) bool {
		i := sort.Search(len(gaps), func(i int) bool { return gaps[i].end > a })
		return i < len(gaps) && gaps[i].start <= a
	}
	note := func(r codeRange) {
		s.sweep(r, func(addr uint64, sh *disasm.Shape) {
			t, ok := sh.Target(addr)
			if ok && sh.Flow() == disasm.CondJump {
				return
			}
			if !ok && sh.Opcode() == 0x8d {
				t, ok = sh.MemTarget(addr)
			}
			if ok && inGap(t) && (sh.Flow() != disasm.Jump || t < r.start || t >= r.end) {
				starts[t] = true
			}
		})
	}
	// Calls from elsewhere into the middle of what is found here become entries.
	for _, r := range gaps {
		note(r)
	}
	if dyn, err := s.f.Dynamic(); err == nil {
		for _, a := range []uint64{dyn.Init, dyn.Fini, s.f.Entry} {
			starts[a] = true
		}
	}
	if relocs, err := s.f.Relocations(); err == nil {
		for _, r := range relocs {
			starts[uint64(r.Addend)] = true
		}
	}
	var found []codeRange
	for _, g := range gaps {
		cuts := []uint64{g.start}
		for a := range starts {
			if a > g.start && a < g.end {
				cuts = append(cuts, a)
			}
		}
		slices.Sort(cuts)
		for i, a := range cuts {
			end := g.end
			if i+1 < len(cuts) {
				end = cuts[i+1]
			}
			found = append(found, codeRange{start: a, end: end, gap: true})
		}
	}
	s.ranges = append(s.ranges, found...)
	sortRanges(s.ranges)
}

// findGaps returns the code outside all functions, without padding and without
// the procedure linkage table.
func (s *scanner) findGaps() []codeRange {
	var gaps []codeRange
	add := func(from, to uint64) {
		if from = s.skipPadding(from, to); from < to {
			gaps = append(gaps, codeRange{start: from, end: to})
		}
	}
	i := 0
	for _, area := range s.code {
		at := area.start
		for ; i < len(s.ranges) && s.ranges[i].start < area.end; i++ {
			add(at, s.ranges[i].start)
			at = max(at, s.ranges[i].end)
		}
		add(at, area.end)
	}
	return gaps
}

// skipPadding returns the first address in [from, to) that is not padding.
func (s *scanner) skipPadding(from, to uint64) uint64 {
	for from < to {
		b := s.img.bytes(from)
		if len(b) == 0 {
			return to
		}
		if b[0] == 0 || b[0] == 0xcc || b[0] == 0x90 {
			from++
			continue
		}
		sh, err := disasm.Scan(b)
		if err != nil || !isNop(&sh) {
			return from
		}
		from += uint64(sh.Size())
	}
	return to
}

func isNop(sh *disasm.Shape) bool {
	op := sh.Opcode()
	return op == 0x90 || op == disasm.Escape0F|0x1f
}

// sweep decodes a range from its start, byte by byte over what is no code.
func (s *scanner) sweep(r codeRange, visit func(addr uint64, sh *disasm.Shape)) {
	code := s.img.bytes(r.start)
	if uint64(len(code)) > r.end-r.start {
		code = code[:r.end-r.start]
	}
	for off := 0; off < len(code); {
		sh, err := disasm.Scan(code[off:])
		if err != nil {
			off++
			continue
		}
		visit(r.start+uint64(off), &sh)
		off += sh.Size()
	}
}

// readPointers lists the words that hold addresses: relocated ones, and in a
// program at fixed addresses all whose value is one.
func (s *scanner) readPointers() error {
	relocs, err := s.f.Relocations()
	if err != nil {
		return err
	}
	syms, err := s.f.DynamicSymbols()
	if err != nil {
		return err
	}
	relro := s.relro()
	for _, r := range relocs {
		p := pointer{place: r.Offset, constant: relro.start <= r.Offset && r.Offset < relro.end}
		switch elf.R_X86_64(r.Type) {
		case elf.R_X86_64_RELATIVE:
			p.addr = uint64(r.Addend)
		case elf.R_X86_64_IRELATIVE:
			p.addr, p.kind, p.constant = uint64(r.Addend), SlotResolver, true
		case elf.R_X86_64_GLOB_DAT, elf.R_X86_64_JMP_SLOT, elf.R_X86_64_64:
			if elf.R_X86_64(r.Type) != elf.R_X86_64_64 {
				p.constant = true // the linkage table: only the dynamic loader writes it
			}
			if int(r.Sym) >= len(syms) {
				continue
			}
			p.kind, p.target, p.addend = SlotImport, s.importOf(r.Sym, &syms[r.Sym]), r.Addend
			if elf.R_X86_64(r.Type) == elf.R_X86_64_JMP_SLOT {
				p.addend = 0
			}
		case elf.R_X86_64_COPY:
			if int(r.Sym) < len(syms) {
				s.sum.Copies = append(s.sum.Copies, Copy{r.Offset, s.importOf(r.Sym, &syms[r.Sym])})
			}
			continue
		case elf.R_X86_64_DTPMOD64, elf.R_X86_64_TLSDESC:
			s.tls[r.Offset] = true
			continue
		default:
			continue
		}
		s.pointers = append(s.pointers, p)
	}
	if !s.pie {
		s.scanWords()
	}
	slices.SortStableFunc(s.pointers, func(a, b pointer) int { return compare(a.place, b.place) })
	s.pointers = slices.CompactFunc(s.pointers, func(a, b pointer) bool { return a.place == b.place })
	return nil
}

func (s *scanner) relro() codeRange {
	for _, seg := range s.f.Segments {
		if seg.Type == elf.PT_GNU_RELRO {
			return codeRange{start: seg.Vaddr, end: seg.Vaddr + seg.Memsz}
		}
	}
	return codeRange{}
}

// scanWords adds the aligned words outside code whose value is an address of the
// object. Go's tables name code by offsets that the linker has pruned already,
// so Go programs need none of it.
func (s *scanner) scanWords() {
	if s.sum.Go {
		return
	}
	relocated := len(s.pointers)
	relro := s.relro()
	for _, p := range s.img.parts {
		for a := (p.addr + 7) &^ 7; a+8 <= p.addr+uint64(len(p.data)); a += 8 {
			v := s.img.word(a)
			if v < s.low || v >= s.high || s.isCode(a) || !s.isAddress(int64(v)) {
				continue
			}
			if _, ok := slices.BinarySearchFunc(s.pointers[:relocated], a, func(p pointer, a uint64) int { return compare(p.place, a) }); ok {
				continue
			}
			s.pointers = append(s.pointers, pointer{place: a, addr: v, constant: !p.write || relro.start <= a && a < relro.end})
		}
	}
}

func (s *scanner) importOf(index uint32, sym *objfile.Symbol) uint32 {
	if i, ok := s.imports[index]; ok {
		return i
	}
	i := uint32(len(s.sum.Imports))
	s.imports[index] = i
	s.sum.Imports = append(s.sum.Imports, Import{Name: sym.Name, Version: sym.Version, Weak: sym.Bind == elf.STB_WEAK})
	return i
}

func (s *scanner) readSymbols() error {
	syms, err := s.f.DynamicSymbols()
	if err != nil {
		return err
	}
	for i := range syms {
		sym := &syms[i]
		if sym.Shndx == elf.SHN_UNDEF || sym.Name == "" || sym.Bind == elf.STB_LOCAL || sym.Type == elf.STT_TLS {
			continue
		}
		e := Export{Name: sym.Name, Version: sym.Version, Default: sym.VersionDefault, Value: sym.Value, Size: sym.Size, Func: none}
		if s.isCode(sym.Value) {
			fn, ok := s.funcAt(sym.Value)
			if !ok {
				continue
			}
			e.Kind, e.Func = ExportFunc, fn
			if sym.Type == elf.STT_GNU_IFUNC {
				e.Kind = ExportResolver
				s.resolvers[fn] = true
			}
			s.enterAt(fn, sym.Value)
		} else if sym.Shndx == elf.SHN_ABS {
			continue
		} else {
			s.starts[sym.Value] = true
		}
		s.sum.Exports = append(s.sum.Exports, e)
	}
	slices.SortStableFunc(s.sum.Exports, func(a, b Export) int {
		if a.Name < b.Name {
			return -1
		} else if a.Name > b.Name {
			return 1
		}
		return 0
	})
	for _, p := range s.pointers {
		if p.kind == SlotImport {
			continue
		}
		if fn, ok := s.funcAt(p.addr); ok {
			s.enterAt(fn, p.addr)
			if p.kind == SlotResolver {
				s.resolvers[fn] = true
			}
		} else if !s.isCode(p.addr) {
			s.starts[p.addr] = true
		}
	}
	return nil
}

// enterAt notes that a function is entered at addr.
func (s *scanner) enterAt(fn uint32, addr uint64) {
	if addr == s.ranges[fn].start || slices.Contains(s.entries[fn], addr) {
		return
	}
	s.entries[fn] = append(s.entries[fn], addr)
	s.late[fn] = true
}

func (s *scanner) readRoots() error {
	dyn, err := s.f.Dynamic()
	if err != nil {
		return err
	}
	s.sum.Soname = dyn.Soname
	s.sum.BindLazy = dyn.Flags&elf.DF_BIND_NOW == 0 && dyn.Flags1&elf.DF_1_NOW == 0
	s.sum.Static = s.f.Interp == "" && len(dyn.Needed) == 0
	s.sum.Entry = none
	if fn, ok := s.funcAt(s.f.Entry); ok {
		s.sum.Entry = fn
		s.enterAt(fn, s.f.Entry)
	}
	add := func(list *[]uint32, addr uint64) {
		if fn, ok := s.funcAt(addr); ok && addr != 0 {
			*list = append(*list, fn)
			s.enterAt(fn, addr)
		}
	}
	add(&s.sum.Init, dyn.Init)
	add(&s.sum.Fini, dyn.Fini)
	for _, table := range []struct {
		span objfile.Span
		list *[]uint32
	}{{dyn.PreinitArray, &s.sum.Init}, {dyn.InitArray, &s.sum.Init}, {dyn.FiniArray, &s.sum.Fini}} {
		if table.span.Size == 0 {
			continue
		}
		pointers, err := s.f.Pointers(table.span)
		if err != nil {
			return err
		}
		for _, p := range pointers {
			add(table.list, p)
		}
	}
	if s.sum.Static {
		s.staticArrays(add)
	}
	return nil
}

// lazyProlog starts glibc's _dl_runtime_resolve in all its variants: push rbx;
// mov rbx, rsp; and rsp, imm8 (sysdeps/x86_64/dl-trampoline.h).
var lazyProlog = []byte{0x53, 0x48, 0x89, 0xe3, 0x48, 0x83, 0xe4}

// findLazyResolvers looks for the functions of glibc's loader that resolve a
// symbol at the first call through a linkage table.
func (s *scanner) findLazyResolvers() {
	if s.f.Interp != "" || !strings.HasPrefix(s.sum.Soname, "ld-linux") {
		return
	}
	for i, r := range s.ranges {
		code := s.img.bytes(r.start)
		if bytes.HasPrefix(code, []byte{0xf3, 0x0f, 0x1e, 0xfa}) {
			code = code[4:]
		}
		if bytes.HasPrefix(code, lazyProlog) {
			s.sum.Lazy = append(s.sum.Lazy, uint32(i))
		}
	}
}

// staticArrays finds the tables that a static program's own start-up code walks.
func (s *scanner) staticArrays(add func(*[]uint32, uint64)) {
	for name, list := range map[string]*[]uint32{".preinit_array": &s.sum.Init, ".init_array": &s.sum.Init, ".fini_array": &s.sum.Fini} {
		if sec := s.f.Section(name); sec != nil {
			for a := sec.Addr; a+8 <= sec.Addr+sec.Size && sec.Size < 1<<20; a += 8 {
				add(list, s.pointerAt(a))
			}
		}
	}
	for name, list := range map[string]*[]uint32{".init": &s.sum.Init, ".fini": &s.sum.Fini} {
		if sec := s.f.Section(name); sec != nil {
			add(list, sec.Addr)
		}
	}
}

// walkAll walks every function, and again those that turn out to be entered in
// the middle.
func (s *scanner) walkAll() {
	s.sum.Funcs = make([]Func, len(s.ranges))
	s.facts = make([]funcFacts, len(s.ranges))
	s.addExpr(Expr{}) // OpUnknown is expression 0
	s.addWhen(When{})
	clear(s.late)
	w := &walker{scanner: s, refSeen: map[Ref]struct{}{}, lost: map[value]struct{}{}}
	for fn := range s.ranges {
		if s.idle == 0 || s.ranges[fn].start != s.idle {
			w.function(uint32(fn))
		}
	}
	for fn := range s.late {
		w.function(fn)
	}
	s.findNoReturn()
	for fn := range s.ranges {
		if s.improvable(uint32(fn)) {
			w.function(uint32(fn))
		}
	}
}

// noReturn are functions of the C and C++ libraries that do not come back.
var noReturn = map[string]bool{
	"abort": true, "exit": true, "_exit": true, "_Exit": true, "quick_exit": true,
	"__stack_chk_fail": true, "__chk_fail": true, "__fortify_fail": true, "__assert_fail": true,
	"__assert_perror_fail": true, "__libc_fatal": true, "pthread_exit": true, "thrd_exit": true,
	"longjmp": true, "_longjmp": true, "siglongjmp": true, "__longjmp_chk": true,
	"__cxa_throw": true, "__cxa_rethrow": true, "_Unwind_Resume": true, "__cxa_bad_cast": true,
	"_ZSt9terminatev": true, "err": true, "errx": true, "verr": true, "verrx": true,
	"__libc_start_main": true,
}

// findNoReturn finds the functions whose code never returns: no return
// instruction, and no jump to a function that may return.
func (s *scanner) findNoReturn() {
	s.noReturn = make([]bool, len(s.facts))
	for i := range s.facts {
		s.noReturn[i] = !s.facts[i].returns
	}
	for changed := true; changed; {
		changed = false
		for fn := range s.facts {
			if !s.noReturn[fn] {
				continue
			}
			for _, c := range s.calls[s.facts[fn].calls[0]:s.facts[fn].calls[1]] {
				if c.Tail && !s.comesNotBack(&c.Call) {
					s.noReturn[fn] = false
					changed = true
					break
				}
			}
		}
	}
}

func (s *scanner) comesNotBack(c *Call) bool {
	switch c.Kind {
	case CallFunc:
		return s.noReturn[c.Target]
	case CallImport:
		return noReturn[s.sum.Imports[c.Target].Name]
	}
	return false
}

// improvable reports whether a function has a system call whose number is not
// known, and calls something that does not return: code after such a call may
// have blurred the number.
func (s *scanner) improvable(fn uint32) bool {
	f := &s.facts[fn]
	if !slices.ContainsFunc(s.sites[f.sites[0]:f.sites[1]], func(x Site) bool {
		return slices.ContainsFunc(s.sum.members(x.Expr), func(e Expr) bool { return e.Op == OpUnknown })
	}) {
		return false
	}
	return slices.ContainsFunc(s.calls[f.calls[0]:f.calls[1]], func(c rawCall) bool { return s.comesNotBack(&c.Call) })
}

func (s *scanner) addWhen(x When) uint32 { return intern(&s.sum.Whens, s.whens, x) }

func (s *scanner) addExpr(e Expr) uint32 { return intern(&s.sum.Exprs, s.exprs, e) }

// intern returns the index of x in a list that has each value once.
func intern[T comparable](list *[]T, index map[T]uint32, x T) uint32 {
	if i, ok := index[x]; ok {
		return i
	}
	i := uint32(len(*list))
	*list = append(*list, x)
	index[x] = i
	return i
}
