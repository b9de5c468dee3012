package analysis

import (
	"slices"
	"strings"

	"bulkhead/internal/disasm"
)

// expr turns a value into an expression of the summary.
func (w *walker) expr(v value) uint32 {
	switch v.k {
	case constant:
		return w.addExpr(Expr{Op: OpConst, N: v.n})
	case address:
		if uint64(v.n) > w.start && uint64(v.n) < w.end {
			return 0 // a label, which nobody calls
		}
		if fn, ok := w.codeTarget(uint64(v.n)); ok {
			return w.addExpr(Expr{Op: OpFunc, I: fn})
		}
		if p := w.stub(uint64(v.n)); p != nil && p.kind == SlotImport {
			return w.addExpr(Expr{Op: OpImport, I: p.target})
		} else if p != nil {
			return w.addExpr(Expr{Op: OpSlot, N: int64(p.place)})
		}
		return w.addExpr(Expr{Op: OpData, N: v.n})
	case external:
		return w.addExpr(Expr{Op: OpImport, I: v.i, N: v.n})
	case param:
		return w.addExpr(Expr{Op: OpParam, I: v.i})
	case stackParam:
		return w.addExpr(Expr{Op: OpStackParam, N: v.n})
	case slot:
		return w.addExpr(Expr{Op: OpSlot, N: v.n})
	case extSlot:
		return w.addExpr(Expr{Op: OpImportSlot, I: v.i, N: v.n})
	case load:
		return w.addExpr(Expr{Op: OpLoad, I: w.expr(w.values.list[v.i]), N: v.n})
	case guarded:
		return w.addExpr(Expr{Op: OpGuarded})
	case oneOf:
		return w.setExpr(w.values.sets[v.i])
	}
	return 0
}

// setExpr appends the members of a set side by side.
func (w *walker) setExpr(members []value) uint32 {
	list := make([]Expr, len(members))
	for i, m := range members {
		list[i] = w.sum.Exprs[w.expr(m)]
	}
	from := uint32(len(w.sum.Exprs))
	w.sum.Exprs = append(w.sum.Exprs, list...)
	return w.addExpr(Expr{Op: OpSet, I: from, N: int64(len(list))})
}

// codeTarget returns the function at a code address; an address inside one is
// noted as an entry.
func (w *walker) codeTarget(addr uint64) (uint32, bool) {
	if !w.isCode(addr) {
		return 0, false
	}
	if w.stub(addr) != nil {
		return 0, false
	}
	fn, ok := w.funcAt(addr)
	if ok && w.ranges[fn].gap && !w.plausible(addr) {
		return 0, false
	}
	if ok {
		w.enterAt(fn, addr)
	}
	return fn, ok
}

// maxPlausible bounds the instructions that plausible looks at.
const maxPlausible = 4096

// plausible reports whether all that code entered at addr leads to by its own
// jumps and calls decodes. Code that nothing describes is told from data among
// it so: what is reached and does not decode would fault.
func (w *walker) plausible(addr uint64) bool {
	if known, ok := w.judged[addr]; ok {
		return known
	}
	seen := map[uint64]bool{}
	todo := []uint64{addr}
	ok := true
	for len(todo) > 0 && ok && len(seen) < maxPlausible {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for ok && !seen[at] && len(seen) < maxPlausible {
			seen[at] = true
			sh, err := disasm.Scan(w.img.bytes(at))
			if err != nil || !w.isCode(at) {
				ok = false
				break
			}
			if t, direct := sh.Target(at); direct {
				if f, known := w.funcAt(t); !w.isCode(t) {
					ok = false
				} else if known && w.ranges[f].gap {
					todo = append(todo, t)
				}
			}
			if !sh.FallsThrough() || sh.IsCall() && w.endOfRange(at+uint64(sh.Size())) {
				break
			}
			at += uint64(sh.Size())
		}
	}
	w.judged[addr] = ok
	return ok
}

// endOfRange reports whether no function holds addr: a call before it does not
// return.
func (w *walker) endOfRange(addr uint64) bool {
	_, ok := w.funcAt(addr)
	return !ok
}

// stubImport reports whether code at addr is a linkage table stub, which jumps
// through a word that the dynamic loader fills, and returns the import.
func (w *walker) stubImport(addr uint64) (uint32, bool) {
	p := w.stub(addr)
	if p == nil || p.kind != SlotImport {
		return 0, false
	}
	return p.target, true
}

// stub returns the linkage table word that the code at addr jumps through.
func (w *walker) stub(addr uint64) *pointer {
	for range 2 { // endbr64 first, with control flow protection
		b := w.img.bytes(addr)
		if len(b) < 6 || b[0] != 0xff && b[0] != 0xf2 && b[0] != 0xf3 {
			return nil
		}
		sh, err := disasm.Scan(b)
		if err != nil {
			return nil
		}
		if sh.Flow() == disasm.JumpIndirect {
			place, ok := sh.MemTarget(addr)
			if !ok {
				return nil
			}
			p, ok := w.pointer(place)
			if !ok || !p.constant {
				return nil
			}
			return p
		}
		if sh.Opcode() != disasm.Escape0F|0x1e {
			return nil
		}
		addr += uint64(sh.Size())
	}
	return nil
}

// ref notes an escape of the function, once.
func (w *walker) ref(r Ref) {
	if !w.emit {
		return
	}
	key := r
	key.Off = 0
	if _, seen := w.refSeen[key]; seen {
		return
	}
	w.refSeen[key] = struct{}{}
	w.refs = append(w.refs, r)
}

// dataRef notes that the address of data is taken.
func (w *walker) dataRef(addr uint64, off uint32) {
	if w.img.at(addr) == nil || w.tls[addr] {
		return
	}
	if w.sum.Go {
		w.funcValue(addr, off)
	}
	w.spanRef(addr, off)
}

// spanRef is dataRef for an address that is followed on: of a func value it does not
// say yet who gets it.
func (w *walker) spanRef(addr uint64, off uint32) {
	if w.img.at(addr) == nil || w.tls[addr] {
		return
	}
	w.name(addr, off)
	w.starts[addr] = true
	if t := w.sum.Streams; w.emit && addr >= t[0] && addr <= t[1] && t[1] > 0 {
		w.facts[w.fn].streams = true
	}
	w.ref(Ref{Off: off, Kind: RefSpan, Addend: int64(addr)})
}

// name notes a constant that may lead to another library.
func (w *walker) name(addr uint64, off uint32) {
	if !w.emit {
		return
	}
	text, ok := w.text(addr)
	if !ok {
		return
	}
	if _, trigger := slices.BinarySearch(w.triggers, text); trigger || isLibraryName(text) || strings.Contains(text, wideMode) {
		w.names = append(w.names, Name{w.fn, off, text})
	}
}

// slotRef notes that the word at a fixed address is read.
func (w *walker) slotRef(addr uint64, off uint32) {
	w.ref(Ref{Off: off, Kind: RefSlot, Addend: int64(addr)})
}

// escapeCode lets the addresses and parameters that v may hold escape.
func (w *walker) escapeCode(v value, off uint32) {
	switch v.k {
	case address, external, param:
		w.escapeOne(v, off)
	case oneOf:
		for _, m := range w.values.sets[v.i] {
			w.escapeOne(m, off)
		}
	}
}

// escapeStored is escapeCode for a value that is written to memory, which also
// makes the address of the frame known elsewhere.
func (w *walker) escapeStored(v value, off uint32) {
	if v.k == frame {
		w.frameEscapes = true
		w.escapedFrom = min(w.escapedFrom, v.n)
	}
	w.escapeCode(v, off)
}

// escapeOne lets a single value escape. Merges call it before facts are noted;
// those are kept in held and come out again.
func (w *walker) escapeOne(v value, off uint32) {
	switch v.k {
	case param:
		w.escapes |= 1 << v.i
	case address:
		if !w.emit {
			w.lost[v] = struct{}{}
			return
		}
		if fn, ok := w.codeTarget(uint64(v.n)); ok {
			if fn != w.fn || uint64(v.n) == w.start {
				w.ref(Ref{Off: off, Kind: RefFunc, Target: fn})
			}
			return
		}
		if p := w.stub(uint64(v.n)); p != nil && p.kind == SlotImport {
			w.ref(Ref{Off: off, Kind: RefImport, Target: p.target})
		} else if p != nil {
			w.slotRef(p.place, off)
		} else if !w.isCode(uint64(v.n)) {
			w.dataRef(uint64(v.n), off)
		}
	case external:
		if !w.emit {
			w.lost[v] = struct{}{}
			return
		}
		w.ref(Ref{Off: off, Kind: RefImport, Target: v.i, Addend: v.n})
	}
}

// call handles a call instruction and what it leaves of the state.
func (w *walker) call(in *insn, s *state) {
	for r := range s.regs {
		if v := &s.regs[r]; v.k == frame && w.argRegs.Has(disasm.Register(r)) {
			w.frameEscapes = true
			w.escapedFrom = min(w.escapedFrom, v.n)
		}
	}
	if w.emit {
		if t, ok := in.shape.Target(w.start + uint64(in.off)); ok {
			w.callTo(in, s, t)
		} else {
			w.callValue(in, s, w.operand(in, s))
		}
	}
	w.clobber(s, w.scratch)
	if w.callsImport(in, "getenv") {
		s.regs[disasm.RAX] = value{k: variable}
	}
	if w.frameEscapes {
		// The callee may write words of the frame whose address it has.
		w.forgetEscapedWords(s)
	}
}

func (w *walker) clobber(s *state, set disasm.RegSet) {
	for r := range s.regs {
		if set.Has(disasm.Register(r)) {
			s.regs[r] = value{}
		}
	}
}

// forgetEscapedWords makes integers in the frame unknown. Addresses stay: they
// escaped with the frame.
func (w *walker) forgetEscapedWords(s *state) {
	for i := range s.stack {
		if s.stack[i].v.k == constant && s.stack[i].off >= w.escapedFrom {
			s.stack[i].v = value{}
		}
	}
}

// operand evaluates the operand of an indirect call or jump.
func (w *walker) operand(in *insn, s *state) value {
	if r, ok := in.shape.RM(); ok {
		return s.regs[r]
	}
	// The word is only called, so that it does not escape as a loaded one would.
	if l, ok := w.memory(in, s); ok && l.known {
		switch l.base.k {
		case external:
			return value{k: extSlot, i: l.base.i, n: l.base.n + l.off}
		case address:
			if p, ok := w.pointer(uint64(l.base.n)); !ok || !p.constant {
				return value{k: slot, n: l.base.n}
			}
		}
	}
	return w.load(in, s, 8)
}

// callTo notes a call of a fixed address.
func (w *walker) callTo(in *insn, s *state, target uint64) {
	if p := w.stub(target); p != nil {
		switch p.kind {
		case SlotImport:
			w.addCall(in, s, CallImport, p.target)
		case SlotResolver:
			w.addCall(in, s, CallIndirect, w.addExpr(Expr{Op: OpSlot, N: int64(p.place)}))
		default:
			if fn, ok := w.codeTarget(p.addr); ok {
				w.addCall(in, s, CallFunc, fn)
			}
		}
		return
	}
	if fn, ok := w.codeTarget(target); ok {
		w.addCall(in, s, CallFunc, fn)
	} else {
		w.gaps = append(w.gaps, Gap{w.fn, in.off})
	}
}

// callValue notes a call through a register or memory.
func (w *walker) callValue(in *insn, s *state, v value) {
	switch v.k {
	case address:
		w.callTo(in, s, uint64(v.n))
		return
	case external:
		if v.n == 0 {
			w.addCall(in, s, CallImport, v.i)
			return
		}
	case param:
		w.uses |= 1 << v.i
	case oneOf:
		for _, m := range w.values.sets[v.i] {
			if m.k == param {
				w.uses |= 1 << m.i
			}
		}
	}
	if w.sum.Go && w.isDeferred(in) {
		w.addCall(in, s, CallIndirect, w.addExpr(Expr{Op: OpDeferred}))
		return
	}
	w.addCall(in, s, CallIndirect, w.expr(v))
}

// callsImport reports whether a call goes to the import of a name.
func (w *walker) callsImport(in *insn, name string) bool {
	t, ok := in.shape.Target(w.start + uint64(in.off))
	if !ok {
		return false
	}
	i, ok := w.stubImport(t)
	return ok && w.sum.Imports[i].Name == name
}

// endsAt reports whether the call at in is known not to return.
func (w *walker) endsAt(in *insn) bool {
	t, ok := in.shape.Target(w.start + uint64(in.off))
	if w.noReturn == nil || !ok {
		return false
	}
	if i, ok := w.stubImport(t); ok {
		return noReturn[w.sum.Imports[i].Name]
	}
	fn, ok := w.funcAt(t)
	return ok && w.noReturn[fn]
}

// addCall notes a call with the arguments that may matter to the callee.
func (w *walker) addCall(in *insn, s *state, kind CallKind, target uint32) {
	c := rawCall{Call: Call{Off: in.off, Kind: kind, Tail: !in.shape.IsCall(), Target: target}}
	c.args[0], c.texts[0] = len(w.args), len(w.texts)
	if x, ok := s.not.when(); ok && !w.sum.Go {
		w.tests |= 1 << x.Reg
		c.When = w.addWhen(x)
	}
	for r := disasm.RAX; r <= disasm.R15; r++ {
		if w.handed.Has(r) && (kind == CallFunc || w.argRegs.Has(r)) {
			w.addArg(in, uint8(r), w.goArg(s, s.regs[r]), kind)
		}
	}
	w.stackArgs(in, s, kind)
	c.args[1], c.texts[1] = len(w.args), len(w.texts)
	w.calls = append(w.calls, c)
}

// addArg notes what a register holds at a call. What the summary cannot say of
// it escapes.
func (w *walker) addArg(in *insn, reg uint8, v value, kind CallKind) {
	switch v.k {
	case unknown, tableEntry, tableJump, labelJump, guarded, variable, otherStack:
		return
	case frame:
		return
	case constant:
		if v.n < 0 || v.n&^(1<<30) >= maxNumber {
			return
		}
	case address:
		if !w.isCode(uint64(v.n)) && !(w.sum.Go && w.isItab(uint64(v.n))) {
			if text, ok := w.text(uint64(v.n)); ok && kind == CallImport {
				w.texts = append(w.texts, rawString{reg, text})
			}
			return // the span is reached already
		}
	case param:
		w.uses |= 1 << v.i
	case stackParam:
		if v.n == 8 {
			w.uses |= 1 << regStack
		}
	case oneOf:
		for _, m := range w.values.sets[v.i] {
			if m.k == param {
				w.uses |= 1 << m.i
			}
		}
	}
	w.args = append(w.args, Arg{reg, w.expr(v)})
}

// text returns the constant string at addr, if it may name a file or a symbol.
func (w *walker) text(addr uint64) (string, bool) {
	if p := w.img.at(addr); p == nil || p.write {
		return "", false
	}
	t, ok := w.img.cstring(addr)
	if !ok || t == "" || len(t) > 255 {
		return "", false
	}
	for i := range len(t) {
		if t[i] <= ' ' || t[i] >= 0x7f {
			return "", false
		}
	}
	return t, true
}

// stackArgs notes the first stack word as an argument, and lets addresses in the
// words that a callee can see escape.
func (w *walker) stackArgs(in *insn, s *state, kind CallKind) {
	sp := s.regs[disasm.RSP]
	if sp.k != frame {
		if n, ok := w.pushedNumber(in); ok {
			w.addArg(in, regStack, value{k: constant, n: n}, kind)
		}
		return
	}
	top := sp.n
	if in.shape.IsJump() || in.shape.IsCondJump() {
		top += 8 // a tail jump leaves the return address on top
	}
	for i := range s.stack {
		word := &s.stack[i]
		if word.off < top || word.off >= top+maxOperand {
			continue
		}
		if word.off == top && (word.v.k == constant || word.v.k == param || word.v.k == stackParam) {
			w.addArg(in, regStack, word.v, kind)
			if word.v.k != param {
				continue
			}
		}
		w.escapeCode(word.v, in.off)
	}
}

// ret notes what a function returns.
func (w *walker) ret(in *insn, s *state) {
	if !w.emit {
		return
	}
	w.facts[w.fn].returns = true
	if w.resolvers[w.fn] {
		w.rets = append(w.rets, w.expr(s.regs[disasm.RAX]))
	} else {
		w.escapeCode(s.regs[disasm.RAX], in.off)
	}
	w.escapeCode(s.regs[disasm.RDX], in.off)
	if w.sum.Go {
		for r := range s.regs {
			if argsGo.Has(disasm.Register(r)) {
				w.escapeCode(s.regs[r], in.off)
			}
		}
	}
}

// syscall notes a system call instruction.
func (w *walker) syscall(in *insn, s *state) {
	if w.emit {
		site := Site{Off: in.off}
		if in.shape.Opcode() != disasm.Escape0F|0x05 {
			site.ABI = SiteI386
		}
		v := s.regs[disasm.RAX]
		for _, m := range w.values.members(&v) {
			switch {
			case m.k == param:
				w.uses |= 1 << m.i
			case m.k == stackParam && m.n == 8:
				w.uses |= 1 << regStack
			}
		}
		site.Expr = w.expr(v)
		w.sites = append(w.sites, site)
	}
	for r := range s.regs {
		if argsC.Has(disasm.Register(r)) || r == int(disasm.R10) {
			w.escapeStored(s.regs[r], in.off)
		}
	}
	w.clobber(s, disasm.Set(disasm.RAX, disasm.RCX, disasm.R11))
}
