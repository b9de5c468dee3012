package cfi

import (
	"slices"
)

// segment is a part of the file that is mapped executable.
type segment struct {
	vaddr, offset, size uint64
}

// segments is sorted by virtual address and not empty.
type segments []segment

// at returns the segment that holds a virtual address.
func (s segments) at(vaddr uint64) (segment, bool) {
	i, found := slices.BinarySearchFunc(s, vaddr, func(s segment, v uint64) int {
		switch {
		case s.vaddr+s.size <= v:
			return -1
		case s.vaddr > v:
			return 1
		}
		return 0
	})
	if !found {
		return segment{}, false
	}
	return s[i], true
}

// span is code of which one rule is known, in file offsets.
type span struct {
	begin, end uint64
	rule       Rule
}

// locate keeps the entries that lie in code and orders them by file offset, and turns losses into file offsets.
func (e *ehFrame) locate(segs segments) {
	kept := e.entries[:0]
	for _, entry := range e.entries {
		seg, ok := segs.at(entry.begin)
		if !ok {
			continue // a function that the linker dropped, or data
		}
		entry.end = min(entry.end, seg.vaddr+seg.size)
		entry.bias = seg.offset - seg.vaddr
		kept = append(kept, entry)
	}
	byOffset := func(a, b entry) int {
		switch x, y := a.begin+a.bias, b.begin+b.bias; {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	}
	if !slices.IsSortedFunc(kept, byOffset) {
		slices.SortStableFunc(kept, byOffset)
	}
	e.entries = kept
	for i := range e.losses {
		l := &e.losses[i]
		if seg, ok := segs.at(l.Begin); ok {
			l.Begin += seg.offset - seg.vaddr
			l.End = min(l.End, seg.vaddr+seg.size) + seg.offset - seg.vaddr
		} else {
			*l = Loss{Reason: l.Reason}
		}
	}
}

// build makes the table from the entries of .eh_frame and from spans of other origin. Both are sorted; where they
// overlap the entries win.
func (e *ehFrame) build(spans []span) *Table {
	b := newTableBuilder(min(len(e.data)/12, 32*len(e.entries)))
	x := &executor{builder: b, section: e, known: make(map[state]verdict)}
	for i := range e.entries {
		entry := &e.entries[i]
		for len(spans) > 0 && spans[0].begin < entry.begin+entry.bias {
			b.span(spans[0])
			spans = spans[1:]
		}
		x.entry(entry)
	}
	for _, s := range spans {
		b.span(s)
	}
	t := b.finish()
	t.addLosses(e.losses)
	return t
}

// span appends a range with one rule.
func (b *tableBuilder) span(s span) {
	s.begin = max(s.begin, b.end)
	if s.begin >= s.end {
		return
	}
	rule, ok := b.intern(s.rule)
	if !ok {
		b.lose(s.begin, s.end, ReasonRules)
	}
	b.begin(s.begin)
	b.row(s.begin, rule)
	b.end = s.end
}

// verdict is what a state means as a rule.
type verdict struct {
	rule uint16
	why  Reason // not zero: the rule is KindNone, and this is a loss
}

// executor turns entries into rows.
type executor struct {
	builder *tableBuilder
	section *ehFrame
	known   map[state]verdict
	machine machine
}

// verdict condenses a state, once for each distinct one.
func (x *executor) verdict(s *state) verdict {
	v, ok := x.known[*s]
	if !ok {
		var r Rule
		r, v.why = s.rule()
		if v.rule, ok = x.builder.intern(r); !ok {
			v.why = ReasonRules
		}
		x.known[*s] = v
	}
	return v
}

// returnsHere reports rules of code that is returned to without having made a call: a signal trampoline, or where a thread
// or coroutine begins. Such return addresses are of the first instruction, and a walk looks one byte below.
func (x *executor) returnsHere(rule uint16) bool {
	kind := x.builder.Rules[rule].CFA
	return kind == KindEnd || kind == KindSignal
}

// entry appends the rows of one FDE.
func (x *executor) entry(e *entry) {
	b := x.builder
	begin, end := e.begin+e.bias, e.end+e.bias
	if begin < b.end {
		b.lose(begin, min(end, b.end), ReasonOverlap)
		begin = b.end
	}
	if begin >= end {
		return
	}
	b.begin(begin)
	program := x.section.data[e.program : e.program+e.length]
	m := &x.machine
	m.cie, m.state, m.stack = e.cie, e.cie.initial, m.stack[:0]
	m.loc, m.origin, m.plain = e.begin, x.section.addr+uint64(e.program), int64(m.state.offset)

	if e.outermost {
		m.state, program = outermostState, nil
	}
	from := begin
	emit := func(to uint64) {
		if to <= from {
			return
		}
		v := x.verdict(&m.state)
		if from == begin && begin > b.end && x.returnsHere(v.rule) {
			from--
		}
		b.row(from, v.rule)
		if v.why != 0 {
			b.lose(from, to, v.why)
		}
		from = to
	}
	ok := m.run(program, func(loc uint64) bool {
		to := loc + e.bias
		if to >= end {
			return false
		}
		emit(to)
		return true
	})
	if ok {
		emit(end)
	} else {
		b.row(from, 0)
		b.lose(from, end, ReasonProgram)
	}
	b.end = end
}
