package cfi

import (
	"container/heap"
	"slices"

	"bulkhead/internal/disasm"
)

// gap is code that no call frame information covers.
type gap struct {
	addr   uint64 // virtual address of code[0]
	offset uint64 // file offset of code[0]
	code   []byte
	before *stackState // of the code that runs into the gap, nil if none does
}

func (g *gap) holds(addr uint64) bool { return addr-g.addr < uint64(len(g.code)) }

// synthesis finds the rules of a gap by data flow over its instructions: it follows the stack pointer from the start of
// each function along all jumps. Where paths disagree, or where nothing leads to, there is no rule.
type synthesis struct {
	gap
	starts   []uint32     // known beginnings of functions, sorted, unique: positions in code
	seen     []uint16     // for each byte: 1 + index of the state before the instruction that begins there
	states   []stackState // distinct states
	index    map[stackState]uint16
	work     []uint32              // instructions whose successors are to be visited
	calls    callEdges             // what follows calls
	behind   map[uint32]uint32     // where a call or hlt led to, and what stands behind it: positions
	noReturn map[uint32]bool       // the positions behind calls that do not return
	dispatch map[uint32]stackState // by function: the state at its indirect jumps
}

// maxRounds bounds how often a flow starts anew, each time knowing more calls that do not return.
const maxRounds = 4

// functionAlign is what compilers align functions to unless told to save space.
const functionAlign = 16

// maxGap bounds the memory of a synthesis: two bytes for each byte of code.
const maxGap = 64 << 20

// synthesize returns the rules of a gap, as sorted spans of file offsets, and the ranges of code without any. starts are
// virtual addresses of functions, sorted.
func synthesize(g gap, starts []uint64) (spans []span, losses []Loss) {
	s := &synthesis{gap: g, noReturn: make(map[uint32]bool)}
	if len(g.code) > maxGap {
		return nil, []Loss{{g.offset, g.offset + uint64(len(g.code)), ReasonNoInformation}}
	}
	for _, addr := range starts {
		if g.holds(addr) {
			s.starts = append(s.starts, uint32(addr-g.addr))
		}
	}
	for round := 0; round < maxRounds; round++ {
		s.reset()
		for _, start := range s.starts {
			s.visit(start, atEntry)
		}
		if g.before != nil {
			s.visit(0, *g.before)
		}
		if !s.flow() {
			break
		}
	}
	// The code before the first known function is not one: compilers put the cold parts of functions there.
	s.leftovers(0)
	for _, start := range s.starts {
		s.leftovers(start)
	}
	if len(s.states) == 0 {
		return nil, []Loss{{g.offset, g.offset + uint64(len(g.code)), ReasonNotCode}}
	}
	return s.spans()
}

// nextStart returns where the function after a position begins.
func (s *synthesis) nextStart(pos uint32) int {
	i, found := slices.BinarySearch(s.starts, pos)
	if found {
		i++
	}
	if i < len(s.starts) {
		return int(s.starts[i])
	}
	return len(s.code)
}

func (s *synthesis) isStart(pos uint32) bool {
	_, found := slices.BinarySearch(s.starts, pos)
	return found
}

// reset forgets all states.
func (s *synthesis) reset() {
	s.seen = make([]uint16, len(s.code))
	s.states, s.work, s.calls = nil, nil, nil
	s.index = make(map[stackState]uint16)
	s.dispatch = make(map[uint32]stackState)
	s.behind = make(map[uint32]uint32)
}

// visit joins a state into what is known before the instruction at pos.
func (s *synthesis) visit(pos uint32, state stackState) {
	if old := s.seen[pos]; old != 0 {
		joined := s.states[old-1].join(state)
		if joined == s.states[old-1] {
			return
		}
		if call, ok := s.behind[pos]; ok {
			s.noReturn[call] = true
		}
		state = joined
	}
	i, ok := s.index[state]
	if !ok {
		if len(s.states) == 1<<16-1 {
			return
		}
		s.states = append(s.states, state)
		i = uint16(len(s.states))
		s.index[state] = i
	}
	s.seen[pos] = i
	s.work = append(s.work, pos)
}

// callEdge leads from a call to the instruction behind it.
type callEdge struct {
	pos   uint32
	state stackState
}

// callEdges is a heap by position.
type callEdges []callEdge

func (c callEdges) Len() int           { return len(c) }
func (c callEdges) Less(i, j int) bool { return c[i].pos < c[j].pos }
func (c callEdges) Swap(i, j int)      { c[i], c[j] = c[j], c[i] }
func (c *callEdges) Push(x any)        { *c = append(*c, x.(callEdge)) }
func (c *callEdges) Pop() any {
	old := *c
	last := old[len(old)-1]
	*c = old[:len(old)-1]
	return last
}

// flow runs until nothing changes. A callee may not return, and then what stands behind the call belongs to another path:
// such an edge is followed only when nothing else is left to do and only to where no path has led yet. So is the one
// behind hlt, which musl crashes with in inline assembly that the compiler believes to go on.
//
// When a jump later disagrees with such an edge, the call does not return; flow then reports that all has to be done
// again without the edge.
func (s *synthesis) flow() (again bool) {
	known := len(s.noReturn)
	for {
		for len(s.work) > 0 {
			pos := s.work[len(s.work)-1]
			s.work = s.work[:len(s.work)-1]
			s.instruction(pos)
		}
		if len(s.calls) == 0 {
			return len(s.noReturn) > known
		}
		edge := heap.Pop(&s.calls).(callEdge)
		to := uint32(skipPadding(s.code, int(edge.pos)))
		if to < uint32(len(s.code)) && s.seen[to] == 0 && !s.isStart(to) && !s.noReturn[edge.pos] {
			s.behind[to] = edge.pos
			s.visit(to, edge.state)
		}
	}
}

// instruction visits the successors of one instruction.
func (s *synthesis) instruction(pos uint32) {
	in, err := disasm.Scan(s.code[pos:])
	if err != nil {
		return
	}
	state := s.states[s.seen[pos]-1]
	next := pos + uint32(in.Size())
	if target, ok := in.Target(s.addr + uint64(pos)); ok && !in.IsCall() && s.holds(target) {
		// A jump to the start of a function is a tail call.
		if to := uint32(target - s.addr); !s.isStart(to) {
			s.visit(to, state)
		}
	}
	if in.Flow() == disasm.JumpIndirect {
		start := s.functionOf(pos)
		if known, ok := s.dispatch[start]; ok {
			state = known.join(state)
		}
		s.dispatch[start] = state
	}
	if !in.FallsThrough() && in.Opcode() != opHlt || next >= uint32(len(s.code)) || s.isStart(next) {
		return
	}
	if in.IsCall() || in.Opcode() == opHlt {
		heap.Push(&s.calls, callEdge{next, state.after(&in)})
		return
	}
	s.visit(next, state.after(&in))
}

func (s *synthesis) functionOf(pos uint32) uint32 {
	i, found := slices.BinarySearch(s.starts, pos)
	if !found {
		i--
	}
	if i < 0 {
		return 0
	}
	return s.starts[i]
}

// leftovers visits the code of a function that no direct path led to. Behind an indirect jump with a frame it is the
// cases of a switch, which run with the frame of the jump; else, where it is aligned and nothing falls through to it,
// another function, to which only a pointer leads. What remains may be the cold part of a function that is not known, or a landing pad for exceptions.
func (s *synthesis) leftovers(start uint32) {
	end := s.nextStart(start)
	if !s.decodes(int(start), end) {
		return
	}
	last := lastFlow{closed: start == 0 && s.before == nil}
	for pos := int(start); pos < end; {
		if s.seen[pos] == 0 {
			if pos = skipPadding(s.code[:end], pos); pos >= end {
				return
			}
			if s.seen[pos] == 0 {
				addr := s.addr + uint64(pos)
				if state, ok := s.dispatch[start]; ok {
					s.visit(uint32(pos), state)
				} else if addr%functionAlign == 0 && last.ends(addr) && s.returns(uint32(pos)) {
					s.visit(uint32(pos), atEntry)
				}
				s.flow()
			}
		}
		in, err := disasm.Scan(s.code[pos:end])
		if err != nil {
			return
		}
		last.pass(&in)
		pos += in.Size()
	}
}

// decodes reports whether all of code[pos:end] decodes and does not run on behind its end, as functions do and data
// hardly ever does.
func (s *synthesis) decodes(pos, end int) bool {
	open := true
	for pos < end {
		if next := skipPadding(s.code[:end], pos); next > pos {
			pos = next
			continue
		}
		in, err := disasm.Scan(s.code[pos:end])
		if err != nil {
			return false
		}
		open = in.FallsThrough() && !in.IsCall()
		pos += in.Size()
	}
	return !open
}

// skipPadding passes over what assemblers and linkers put between functions: nop of any length, int3, zero bytes at the
// end.
func skipPadding(code []byte, pos int) int {
	for pos < len(code) {
		n := paddingAt(code[pos:])
		if n == 0 {
			break
		}
		pos += n
	}
	return pos
}

// paddingAt returns the size of the first padding instruction or byte in code, 0 if it begins with something else.
func paddingAt(code []byte) int {
	if code[0] == 0 && (len(code) == 1 || code[1] == 0) {
		return 1
	}
	in, err := disasm.Scan(code)
	if err != nil || !isPadding(&in) {
		return 0
	}
	return in.Size()
}

func isPadding(in *disasm.Shape) bool {
	switch in.Opcode() {
	case 0x90, 0xcc, disasm.Escape0F | 0x1f:
		return true
	}
	return false
}

// spans turns states into rules. An instruction's rule holds to the next one that was visited or to its own end.
func (s *synthesis) spans() (spans []span, losses []Loss) {
	add := func(from, to int, r Rule) {
		begin, end := s.offset+uint64(from), s.offset+uint64(to)
		if n := len(spans); n > 0 && spans[n-1].end == begin && spans[n-1].rule == r {
			spans[n-1].end = end
			return
		}
		spans = append(spans, span{begin, end, r})
	}
	lose := func(from, to int) {
		begin, end := s.offset+uint64(from), s.offset+uint64(to)
		if n := len(losses); n > 0 && losses[n-1].End == begin {
			losses[n-1].End = end
			return
		}
		losses = append(losses, Loss{begin, end, ReasonNoInformation})
	}
	for pos := 0; pos < len(s.code); {
		in, err := disasm.Scan(s.code[pos:])
		next := pos + 1
		switch {
		case s.seen[pos] != 0 && err == nil:
			for next = pos + 1; next < pos+in.Size() && s.seen[next] == 0; {
				next++
			}
			if r := s.states[s.seen[pos]-1].rule(); r.CFA != KindNone {
				add(pos, next, r)
			} else {
				lose(pos, next)
			}
		case paddingAt(s.code[pos:]) > 0:
			next = pos + paddingAt(s.code[pos:])
		default:
			lose(pos, next)
		}
		pos = next
	}
	return spans, losses
}

// codePointers is what the code of gaps tells about where functions begin, in addresses.
type codePointers struct {
	called []uint64 // by direct calls
	taken  []uint64 // by lea, or as a constant
	heads  []uint64 // where no instruction falls through to, padding left out; sorted
}

// scanPointers reads the code of gaps. fixed says that the file is loaded where it was linked, so that addresses are
// constants, too.
func scanPointers(gaps []gap, fixed bool) *codePointers {
	p := &codePointers{}
	for i := range gaps {
		p.scan(&gaps[i], gaps, fixed)
	}
	return p
}

func (p *codePointers) scan(g *gap, gaps []gap, fixed bool) {
	last := lastFlow{closed: g.before == nil}
	for pos := 0; pos < len(g.code); {
		if pos = skipPadding(g.code, pos); pos == len(g.code) {
			return
		}
		addr := g.addr + uint64(pos)
		if last.ends(addr) {
			p.heads = append(p.heads, addr)
		}
		in, err := disasm.Scan(g.code[pos:])
		if err != nil {
			pos++
			continue
		}
		last.pass(&in)
		pos += in.Size()
		next := g.addr + uint64(pos)
		switch op := in.Opcode(); {
		case in.IsCall():
			if to, ok := in.Target(addr); ok && to != next && inGaps(gaps, to) {
				p.called = append(p.called, to)
			}
		case op == opLea:
			if to, ok := in.MemTarget(addr); ok && to != next && inGaps(gaps, to) {
				p.taken = append(p.taken, to)
			}
		case fixed && (op == opMovImm || op&^7 == opMovRegImm):
			if imm, _ := in.Imm(); inGaps(gaps, uint64(imm)) {
				p.taken = append(p.taken, uint64(imm))
			}
		}
	}
}

// lastFlow is how control left the last instruction that was not padding.
type lastFlow struct {
	closed bool // it never falls through
	call   bool // it does unless the callee does not return
}

func (l *lastFlow) pass(in *disasm.Shape) {
	l.closed, l.call = !in.FallsThrough(), in.IsCall()
}

// ends reports whether a function can have ended before addr. A call that does not return is its last instruction at
// times; only alignment tells that from one in the middle.
func (l *lastFlow) ends(addr uint64) bool {
	return l.closed || l.call && addr%functionAlign == 0
}

// maxTrial bounds how many instructions returns looks at.
const maxTrial = 512

// returns reports whether code at pos can be the beginning of a function: taken for one, it comes to a ret with the
// return address on top of the stack, or at least to none above that. The cases of a switch and landing pads do not, since
// they take down a frame that they have not made. (A ret below may be the next function's, behind a call that does not
// return.)
func (g *gap) returns(pos uint32) bool {
	type point struct {
		pos   uint32
		state stackState
	}
	seen := make(map[uint32]bool)
	work := []point{{pos, atEntry}}
	wrong := false
	for len(work) > 0 && len(seen) < maxTrial {
		p := work[len(work)-1]
		work = work[:len(work)-1]
		for p.pos < uint32(len(g.code)) && !seen[p.pos] && len(seen) < maxTrial {
			seen[p.pos] = true
			in, err := disasm.Scan(g.code[p.pos:])
			if err != nil {
				break
			}
			if in.IsRet() {
				if p.state.spKnown && p.state.sp == atEntry.sp {
					return true
				}
				wrong = wrong || !p.state.spKnown || p.state.sp < atEntry.sp
			}
			if to, ok := in.Target(g.addr + uint64(p.pos)); ok && !in.IsCall() && g.holds(to) {
				work = append(work, point{uint32(to - g.addr), p.state})
			}
			if !in.FallsThrough() {
				break
			}
			p = point{p.pos + uint32(in.Size()), p.state.after(&in)}
		}
	}
	return !wrong
}

// inGaps reports whether an address lies in one of the gaps, which are sorted.
func inGaps(gaps []gap, addr uint64) bool { return gapOf(gaps, addr) != nil }

// gapOf returns the gap that holds an address, nil if none does. They are sorted.
func gapOf(gaps []gap, addr uint64) *gap {
	i, found := slices.BinarySearchFunc(gaps, addr, func(g gap, addr uint64) int {
		switch {
		case g.holds(addr):
			return 0
		case g.addr > addr:
			return 1
		}
		return -1
	})
	if !found {
		return nil
	}
	return &gaps[i]
}
