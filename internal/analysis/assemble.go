package analysis

import (
	"debug/elf"
	"slices"
	"sort"
)

// spanAlign is the alignment that GCC and Clang give to aggregates of 32 bytes
// and more: an address without it may be inside an object.
const spanAlign = 32

// assemble orders the facts by function and resolves addresses of data.
func (s *scanner) assemble() {
	s.makeSpans()
	needs := s.argumentsNeeded()
	sum := s.sum
	for fn := range s.facts {
		f := &s.facts[fn]
		for _, c := range s.calls[f.calls[0]:f.calls[1]] {
			for _, a := range s.args[c.args[0]:c.args[1]] {
				if s.keepArg(&c.Call, a, needs) {
					sum.Args = append(sum.Args, a)
				}
			}
			for _, t := range s.texts[c.texts[0]:c.texts[1]] {
				sum.Strings = append(sum.Strings, String{uint32(len(sum.Calls)), t.reg, t.text})
			}
			c.Call.Args = uint32(len(sum.Args))
			sum.Calls = append(sum.Calls, c.Call)
		}
		s.addRefs(s.refs[f.refs[0]:f.refs[1]])
		sum.Sites = append(sum.Sites, s.sites[f.sites[0]:f.sites[1]]...)
		sum.Returns = append(sum.Returns, s.rets[f.rets[0]:f.rets[1]]...)
		sum.Gaps = append(sum.Gaps, s.gaps[f.gaps[0]:f.gaps[1]]...)
		sum.Names = append(sum.Names, s.names[f.names[0]:f.names[1]]...)
		r := s.ranges[fn]
		sum.Funcs[fn] = Func{
			Start: r.start, Size: uint32(r.end - r.start),
			Calls: uint32(len(sum.Calls)), Refs: uint32(len(sum.Refs)),
			Sites: uint32(len(sum.Sites)), Returns: uint32(len(sum.Returns)),
			Names:   uint32(len(sum.Names)),
			Escapes: f.escapes, Uses: f.uses, Tests: f.tests, Streams: f.streams,
		}
	}
}

// addRefs appends a function's references with their spans and slots.
func (s *scanner) addRefs(refs []Ref) {
	from := len(s.sum.Refs)
	for _, r := range refs {
		switch r.Kind {
		case RefSpan:
			i, ok := s.spanAt(uint64(r.Addend))
			if !ok {
				continue
			}
			r.Target, r.Addend = i, 0
		case RefSlot:
			i, ok := slices.BinarySearchFunc(s.sum.Slots, uint64(r.Addend), func(sl Slot, a uint64) int { return compare(sl.Addr, a) })
			if !ok {
				continue
			}
			r.Target, r.Addend = uint32(i), 0
		}
		key := r
		key.Off = 0
		if !slices.ContainsFunc(s.sum.Refs[from:], func(have Ref) bool {
			have.Off = 0
			return have == key
		}) {
			s.sum.Refs = append(s.sum.Refs, r)
		}
	}
}

// argumentsNeeded returns for each function the registers whose value at entry
// may be used as a system call number there or below, within the object.
func (s *scanner) argumentsNeeded() []uint32 {
	needs := make([]uint32, len(s.facts))
	params := func(expr uint32) (set uint32) {
		for _, e := range s.sum.members(expr) {
			switch e.Op {
			case OpParam:
				set |= 1 << e.I
			case OpStackParam:
				if e.N == 8 {
					set |= 1 << regStack
				}
			}
		}
		return set
	}
	for fn := range s.facts {
		for _, site := range s.sites[s.facts[fn].sites[0]:s.facts[fn].sites[1]] {
			needs[fn] |= params(site.Expr)
		}
	}
	for changed := true; changed; {
		changed = false
		for fn := range s.facts {
			for _, c := range s.calls[s.facts[fn].calls[0]:s.facts[fn].calls[1]] {
				if c.Kind != CallFunc {
					continue
				}
				for _, a := range s.args[c.args[0]:c.args[1]] {
					if needs[c.Target]&(1<<a.Reg) == 0 {
						continue
					}
					if p := params(a.Expr); p&^needs[fn] != 0 {
						needs[fn] |= p
						changed = true
					}
				}
			}
		}
	}
	return needs
}

// keepArg decides whether an argument can matter to the callee: a constant may
// be a system call number, an address may be called or escape.
func (s *scanner) keepArg(c *Call, a Arg, needs []uint32) bool {
	number := true
	for _, e := range s.sum.members(a.Expr) {
		if e.Op != OpConst {
			number = false
		}
	}
	if s.sum.Go && !number {
		return true // func values and interfaces are followed through parameters
	}
	if c.Kind == CallFunc {
		f := &s.facts[c.Target]
		if number {
			return (f.uses|f.tests|needs[c.Target])&(1<<a.Reg) != 0
		}
		if f.tests&(1<<a.Reg) != 0 && s.sum.Exprs[a.Expr].Op == OpParam {
			return true
		}
		return (f.escapes|f.uses|needs[c.Target])&(1<<a.Reg) != 0
	}
	// Libraries hand numbers to others in the first argument only: syscall(2). A
	// zero may stand for a callback that is not there.
	return !number || a.Reg == regFirst || s.sum.Exprs[a.Expr].N == 0
}

// regFirst is rdi, the first argument of the System V ABI.
const regFirst = 7

// members returns the expressions that expression i may be.
func (s *Summary) members(i uint32) []Expr {
	e := s.Exprs[i]
	if e.Op == OpSet {
		return s.Exprs[e.I : uint64(e.I)+uint64(e.N)]
	}
	return s.Exprs[i : i+1]
}

// makeSpans cuts the data that holds pointers at the addresses that start an
// object: symbols, and named addresses with the alignment of an aggregate
// outside symbols. An object that starts elsewhere shares the span of the one
// before it.
func (s *scanner) makeSpans() {
	if s.sum.Go {
		return
	}
	cuts := map[uint64]bool{}
	var objects []codeRange
	for _, e := range s.sum.Exports {
		if e.Kind == ExportData && e.Size > 0 {
			objects = append(objects, codeRange{start: e.Value, end: e.Value + e.Size})
		}
	}
	if syms, err := s.f.Symbols(); err == nil || syms != nil {
		for i := range syms {
			if sym := &syms[i]; sym.Type == elf.STT_OBJECT && sym.Size > 0 && sym.Shndx != elf.SHN_UNDEF {
				objects = append(objects, codeRange{start: sym.Value, end: sym.Value + sym.Size})
			}
		}
	}
	sortRanges(objects)
	inside := func(a uint64) bool {
		i := sort.Search(len(objects), func(i int) bool { return objects[i].start > a }) - 1
		return i >= 0 && a > objects[i].start && a < objects[i].end
	}
	for _, o := range objects {
		if !inside(o.start) {
			cuts[o.start] = true
		}
		if !inside(o.end) {
			cuts[o.end] = true
		}
	}
	// glibc keeps the function tables of its streams in a section of their own,
	// and refuses any other (IO_validate_vtable): each named address is a table.
	tables := codeRange{start: s.sum.Streams[0], end: s.sum.Streams[1]}
	for a := range s.starts {
		if (a%spanAlign == 0 || tables.start <= a && a < tables.end) && !inside(a) {
			cuts[a] = true
		}
	}
	for _, sec := range s.f.Sections {
		if sec.Flags&elf.SHF_ALLOC != 0 && sec.Size > 0 {
			cuts[sec.Addr], cuts[sec.Addr+sec.Size] = true, true
		}
	}
	for _, p := range s.img.parts {
		cuts[p.addr], cuts[p.end] = true, true
	}
	s.fillSpans(cuts)
}

// fillSpans makes a span of each piece that holds pointers.
func (s *scanner) fillSpans(cuts map[uint64]bool) {
	sorted := make([]uint64, 0, len(cuts))
	for a := range cuts {
		sorted = append(sorted, a)
	}
	slices.Sort(sorted)
	at := 0
	for _, p := range s.pointers {
		for at+1 < len(sorted) && sorted[at+1] <= p.place {
			at++
		}
		if at+1 >= len(sorted) {
			break
		}
		if n := len(s.sum.Spans); n == 0 || s.sum.Spans[n-1].Start != sorted[at] {
			s.sum.Spans = append(s.sum.Spans, Span{Start: sorted[at], End: sorted[at+1]})
		}
		s.sum.Spans[len(s.sum.Spans)-1].Slots++
	}
	total := uint32(0)
	for i := range s.sum.Spans {
		total += s.sum.Spans[i].Slots
		s.sum.Spans[i].Slots = total
	}
	w := &walker{scanner: s}
	n := 0
	for i := range s.sum.Spans {
		for ; n < int(s.sum.Spans[i].Slots); n++ {
			s.sum.Slots = append(s.sum.Slots, w.slot(&s.pointers[n]))
		}
	}
}

// slot resolves a pointer. One that leads to nothing of interest has the target
// none.
func (w *walker) slot(p *pointer) Slot {
	sl := Slot{Addr: p.place, Kind: p.kind, Fixed: p.constant, Target: none, Addend: p.addend}
	switch {
	case p.kind == SlotImport:
		sl.Target = p.target
	case w.isCode(p.addr):
		if stub := w.stub(p.addr); stub != nil && stub.kind == SlotImport {
			sl.Kind, sl.Target = SlotImport, stub.target
		} else if stub != nil {
			if fn, ok := w.funcAt(stub.addr); ok {
				sl.Kind, sl.Target = stub.kind, fn
			}
		} else if fn, ok := w.funcAt(p.addr); ok {
			sl.Target = fn
		}
	default:
		sl.Kind = SlotData
		if i, ok := w.spanAt(p.addr); ok {
			sl.Target = i
			sl.Addend = int64(p.addr - w.sum.Spans[i].Start)
		}
	}
	return sl
}

// spanAt returns the span that holds addr.
func (s *scanner) spanAt(addr uint64) (uint32, bool) {
	return s.sum.spanAt(addr)
}

func (s *Summary) spanAt(addr uint64) (uint32, bool) {
	i := sort.Search(len(s.Spans), func(i int) bool { return s.Spans[i].Start > addr }) - 1
	if i < 0 || addr >= s.Spans[i].End {
		return 0, false
	}
	return uint32(i), true
}
