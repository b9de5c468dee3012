package analysis

import (
	"slices"

	"bulkhead/internal/disasm"
)

// A kind is the form of a value during the walk over one function.
type kind uint8

const (
	unknown    kind = iota
	constant        // n
	address         // n, in this object
	external        // the address of import i, plus n
	param           // what register i held at entry
	stackParam      // what was at n(rsp) at entry
	frame           // rsp at entry, plus n
	slot            // what is at the fixed address n
	extSlot         // what is at import i plus n
	load            // what is at value i (of the function's list) plus n
	tableEntry      // a 32-bit entry of the jump table at n
	tableJump       // that entry added to value i of the list: the target of a switch
	labelJump       // an address in the function plus something: where assembly jumps
	guarded         // a pointer that was kept mangled with the pointer guard (PTR_DEMANGLE)
	variable        // what getenv returned: null or the address of a string
	otherStack      // an address in a stack that is not the function's own: only in rsp
	oneOf           // a member of set i
)

// A value is what a register or stack word is known to hold.
type value struct {
	k kind
	i uint32
	n int64
}

// anything is what a set becomes that grew too large: unknown, and it stays so
// whatever it is merged with, which makes walks end.
var anything = value{k: unknown, i: 1}

// dropMembers calls dropped for the members of v that a loss matters for.
func dropMembers(vs *values, v value, dropped func(value)) {
	if v.k != oneOf {
		if carries(v) {
			dropped(v)
		}
		return
	}
	for _, m := range vs.sets[v.i] {
		if carries(m) {
			dropped(m)
		}
	}
}

// maxSet bounds the members of a set; a merge beyond it is unknown, and the
// addresses in it escape.
const maxSet = 12

// maxDepth bounds load of load of load.
const maxDepth = 3

// values holds the bases of loads and the members of sets of one function.
type values struct {
	list []value   // bases of loads
	sets [][]value // sorted, without sets among the members
}

func (vs *values) reset() {
	vs.list = vs.list[:0]
	vs.sets = vs.sets[:0]
}

// copyFrom makes s a copy of b, in the memory that s has.
func (s *state) copyFrom(b *state) {
	stack := append(s.stack[:0], b.stack...)
	*s = *b
	s.stack = stack
}

// loadOf returns the value at base plus off.
func (vs *values) loadOf(base value, off int64) value {
	if vs.depth(base) >= maxDepth {
		return value{}
	}
	return value{k: load, i: vs.keep(base), n: off}
}

// keep returns the index of v in the list.
func (vs *values) keep(v value) uint32 {
	if i := slices.Index(vs.list, v); i >= 0 {
		return uint32(i)
	}
	vs.list = append(vs.list, v)
	return uint32(len(vs.list) - 1)
}

func (vs *values) depth(v value) int {
	d := 0
	for v.k == load {
		v = vs.list[v.i]
		d++
	}
	return d
}

// members returns the values that v may be.
func (vs *values) members(v *value) []value {
	if v.k == oneOf {
		return vs.sets[v.i]
	}
	return []value{*v}
}

// carries reports whether a value that is lost may take a function's address or
// a parameter with it.
func carries(v value) bool {
	switch v.k {
	case address, external, param, oneOf, slot, extSlot:
		return true
	}
	return false
}

// merge returns a value that covers a and b. dropped is called for every member
// that the result does not name any more.
func (vs *values) merge(a, b value, dropped func(value)) value {
	if a == b {
		return a
	}
	if a == anything || b == anything {
		dropMembers(vs, a, dropped)
		dropMembers(vs, b, dropped)
		return anything
	}
	if !carries(a) && !carries(b) && !(a.k == constant && b.k == constant) {
		return value{}
	}
	var m union
	m.addAll(vs, &a)
	m.addAll(vs, &b)
	if m.unknown {
		m.forgetPlain()
	}
	switch {
	case m.n > maxSet:
		for _, v := range m.set[:m.n] {
			dropped(v)
		}
		return anything
	case m.n == 0:
		return value{}
	case m.n == 1 && !m.unknown:
		return m.set[0]
	}
	return vs.internUnion(&m)
}

// A union is a set of values under construction, sorted.
type union struct {
	set     [2*maxSet + 2]value
	n       int
	unknown bool
}

func (m *union) addAll(vs *values, v *value) {
	if v.k != oneOf {
		m.add(*v)
		return
	}
	for _, x := range vs.sets[v.i] {
		m.add(x)
	}
}

func (m *union) add(v value) {
	switch v.k {
	case unknown, tableEntry, tableJump, labelJump, guarded, variable, frame, otherStack:
		m.unknown = true
		return
	}
	at := m.n
	for at > 0 && !less(m.set[at-1], v) {
		at--
	}
	if at < m.n && m.set[at] == v || m.n == len(m.set) {
		return
	}
	copy(m.set[at+1:m.n+1], m.set[at:m.n])
	m.set[at] = v
	m.n++
}

// forgetPlain removes what says nothing beside an unknown value: constants and
// loads.
func (m *union) forgetPlain() {
	kept := 0
	for _, v := range m.set[:m.n] {
		if v.k != constant && v.k != load && v.k != stackParam {
			m.set[kept] = v
			kept++
		}
	}
	m.n = kept
}

// internUnion returns the set that m stands for; an unknown member comes first.
func (vs *values) internUnion(m *union) value {
	members := m.set[:m.n]
next:
	for i, have := range vs.sets {
		if m.unknown {
			if have[0].k != unknown {
				continue
			}
			have = have[1:]
		} else if have[0].k == unknown {
			continue
		}
		if len(have) != len(members) {
			continue
		}
		for j := range members {
			if have[j] != members[j] {
				continue next
			}
		}
		return value{k: oneOf, i: uint32(i)}
	}
	set := make([]value, 0, m.n+1)
	if m.unknown {
		set = append(set, value{})
	}
	vs.sets = append(vs.sets, append(set, members...))
	return value{k: oneOf, i: uint32(len(vs.sets) - 1)}
}

func less(a, b value) bool {
	if a.k != b.k {
		return a.k < b.k
	}
	if a.i != b.i {
		return a.i < b.i
	}
	return a.n < b.n
}

// A stackWord is a tracked word of the stack.
type stackWord struct {
	off  int64 // from rsp at entry
	size int64 // bytes written
	v    value
}

// maxStack bounds the tracked words of one frame.
const maxStack = 48

// A state is what is known at one point of a function.
type state struct {
	regs  [16]value
	stack []stackWord // sorted by off
	// crowded says that there were more words than are tracked: what is not in
	// stack may have been written.
	crowded bool
	not     excluded // values that parameters do not have here
}

func entryState() state {
	var s state
	for r := range s.regs {
		s.regs[r] = value{k: param, i: uint32(r)}
	}
	s.regs[disasm.RSP] = value{k: frame}
	return s
}

func (s *state) clone() state {
	c := *s
	c.stack = append([]stackWord(nil), s.stack...)
	return c
}

// word returns what a read of size bytes at stack offset off gives.
func (s *state) word(off, size int64) (value, bool) {
	for i := range s.stack {
		w := &s.stack[i]
		if w.off == off && w.size >= size {
			return w.v, true
		}
		if w.off < off+size && off < w.off+w.size {
			return value{}, true // overlaps
		}
	}
	return value{}, s.crowded
}

// setWord records a write of size bytes at off; words that it overlaps go. It
// returns false where there is no room, so that v is lost.
func (s *state) setWord(off, size int64, v value) bool {
	kept := s.stack[:0]
	for _, w := range s.stack {
		if w.off+w.size <= off || off+size <= w.off {
			kept = append(kept, w)
		}
	}
	s.stack = kept
	if v.k == unknown && off < 0 {
		return true // reads as unknown anyway
	}
	if len(s.stack) >= maxStack {
		s.crowded = true
		return false
	}
	at := len(s.stack)
	for at > 0 && s.stack[at-1].off > off {
		at--
	}
	s.stack = append(s.stack, stackWord{})
	copy(s.stack[at+1:], s.stack[at:])
	s.stack[at] = stackWord{off, size, v}
	return true
}

// join merges b into s and reports whether s changed.
func (s *state) join(b *state, vs *values, dropped func(value)) bool {
	changed := s.crowded != (s.crowded || b.crowded)
	s.crowded = s.crowded || b.crowded
	if s.not.join(&b.not) {
		changed = true
	}
	for r := range s.regs {
		if s.regs[r] == b.regs[r] {
			continue
		}
		v := vs.merge(s.regs[r], b.regs[r], dropped)
		if v != s.regs[r] {
			s.regs[r] = v
			changed = true
		}
	}
	return s.joinStack(b, vs, dropped) || changed
}

// joinStack merges the stack words: one that a side does not know is unknown
// there.
func (s *state) joinStack(b *state, vs *values, dropped func(value)) bool {
	if slices.Equal(s.stack, b.stack) {
		return false
	}
	var room [maxStack]stackWord
	merged := room[:0]
	keep := func(w stackWord, v value) {
		m := vs.merge(w.v, v, dropped)
		if len(merged) == maxStack {
			for _, lost := range vs.members(&m) {
				dropped(lost)
			}
			s.crowded = true
			return
		}
		if m.k != unknown || w.off >= 0 {
			merged = append(merged, stackWord{w.off, w.size, m})
		}
	}
	i, j := 0, 0
	for i < len(s.stack) || j < len(b.stack) {
		switch {
		case j == len(b.stack) || i < len(s.stack) && before(&s.stack[i], &b.stack[j]):
			keep(s.stack[i], value{})
			i++
		case i == len(s.stack) || before(&b.stack[j], &s.stack[i]):
			keep(b.stack[j], value{})
			j++
		default:
			keep(s.stack[i], b.stack[j].v)
			i++
			j++
		}
	}
	if slices.Equal(s.stack, merged) {
		return false
	}
	s.stack = append(s.stack[:0], merged...)
	return true
}

func before(a, b *stackWord) bool {
	return a.off < b.off || a.off == b.off && a.size < b.size
}
