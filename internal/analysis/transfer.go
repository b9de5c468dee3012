package analysis

import "bulkhead/internal/disasm"

// location is where a memory operand points.
type location struct {
	base    value // frame, address, external or whatever the base register holds
	off     int64 // from base, where base is neither frame nor address
	known   bool  // no index: base and off say it all
	indexed bool
}

// memory evaluates a memory operand. Thread-local ones are not followed.
func (w *walker) memory(in *insn, s *state) (l location, ok bool) {
	if t, ok := in.shape.MemTarget(w.start + uint64(in.off)); ok {
		return location{base: value{k: address, n: int64(t)}, known: true}, true
	}
	m, ok := in.shape.Memory()
	if !ok || m.Segment != disasm.Flat {
		return location{}, false
	}
	l.indexed = m.Index != disasm.NoRegister || m.Vector
	l.known = !l.indexed
	if m.Base == disasm.NoRegister {
		l.base = value{k: address, n: m.Disp}
		return l, true
	}
	if m.Base > disasm.R15 {
		return location{}, false
	}
	l.base = s.regs[m.Base]
	switch l.base.k {
	case frame, address:
		l.base.n += m.Disp
	case constant:
		if !w.pie && w.isAddress(l.base.n) {
			l.base = value{k: address, n: l.base.n + m.Disp}
		} else {
			l.off = m.Disp
		}
	default:
		l.off = m.Disp
	}
	if l.indexed && l.base.k != address && l.base.k != frame && m.Scale == 1 && m.Index != disasm.NoRegister {
		// base and index are interchangeable
		if x := s.regs[m.Index]; x.k == address {
			l.base = value{k: address, n: x.n + m.Disp}
		}
	}
	return l, true
}

// load evaluates a read of size bytes.
func (w *walker) load(in *insn, s *state, size int64) value {
	l, ok := w.memory(in, s)
	if !ok {
		return value{}
	}
	switch {
	case l.base.k == frame && l.known:
		v, found := s.word(l.base.n, size)
		switch {
		case found && size == 8:
			return v
		case found && size == 4:
			return narrow(v)
		case found || l.base.n < 8:
			return value{}
		}
		return value{k: stackParam, n: l.base.n}
	case l.base.k == frame:
		w.frameRead(s, in.off)
		return value{}
	case l.base.k == address && l.known:
		if size == 8 {
			return w.fixed(uint64(l.base.n), in.off)
		}
		if size == 4 && !w.pie {
			if p := w.img.at(uint64(l.base.n)); p != nil && !p.write {
				if n, ok := w.img.int32(uint64(l.base.n)); ok {
					return value{k: constant, n: int64(uint32(n))}
				}
			}
		}
		return value{}
	case l.base.k == address:
		w.dataRef(uint64(l.base.n), in.off)
		return value{}
	case l.base.k == oneOf:
		w.contentsEscape(l.base, in.off)
		if l.known && size == 8 {
			return w.values.loadOf(value{}, l.off)
		}
		return value{}
	case !l.known || size < 4:
		return value{}
	case size == 4 && l.base.k != external:
		return w.values.loadOf(l.base, l.off)
	case size == 4:
		return value{}
	case l.base.k == external:
		n := l.base.n + l.off
		w.ref(Ref{Off: in.off, Kind: RefImportSlot, Target: l.base.i, Addend: n})
		return value{k: extSlot, i: l.base.i, n: n}
	case l.base.k == param, l.base.k == slot, l.base.k == extSlot, l.base.k == load, l.base.k == unknown:
		return w.values.loadOf(l.base, l.off)
	}
	return value{}
}

// narrow is a value after truncation to 32 bits: what is known of integers stays.
func narrow(v value) value {
	switch v.k {
	case constant:
		return value{k: constant, n: int64(uint32(v.n))}
	case param, stackParam, oneOf, address, load, slot, extSlot:
		// Addresses keep their meaning below 4 GiB, the rest as numbers.
		return v
	}
	return value{}
}

// contentsEscape lets what the data behind a set of addresses holds escape.
func (w *walker) contentsEscape(v value, off uint32) {
	for _, m := range w.values.members(&v) {
		switch m.k {
		case address:
			w.dataRef(uint64(m.n), off)
		case external:
			w.escapeOne(m, off)
		}
	}
}

// fixed is the value of the word at a fixed address.
func (w *walker) fixed(addr uint64, off uint32) value {
	if p, ok := w.pointer(addr); ok && p.constant {
		if p.kind == SlotImport {
			return value{k: external, i: p.target, n: p.addend}
		}
		if p.kind != SlotResolver {
			return value{k: address, n: int64(p.addr)}
		}
	}
	w.slotRef(addr, off)
	return value{k: slot, n: int64(addr)}
}

// store evaluates a write of size bytes.
func (w *walker) store(in *insn, s *state, size int64, v value) {
	l, ok := w.memory(in, s)
	if ok && l.base.k == frame && l.known {
		if size < 8 && v.k != constant && v.k != param {
			w.escapeCode(v, in.off)
			v = value{}
		}
		w.keep(s, l.base.n, size, v, in.off)
		return
	}
	if ok && l.base.k == frame {
		s.stack = s.stack[:0] // some word changes; addresses in others stay put
		s.crowded = true
	}
	w.escapeStored(v, in.off)
}

// keep stores a value into a word of the frame.
func (w *walker) keep(s *state, off, size int64, v value, at uint32) {
	if !s.setWord(off, size, v) {
		w.escapeCode(v, at)
		return
	}
	if w.emit {
		for _, m := range w.values.members(&v) {
			if carries(m) {
				w.held = append(w.held, stackWord{off, size, m})
			}
		}
	}
}

// frameRead lets what the frame holds escape: it is read in ways that are not
// followed.
func (w *walker) frameRead(s *state, off uint32) {
	for i := range s.stack {
		w.escapeCode(s.stack[i].v, off)
	}
}

// pointerGuard is the offset of the value in glibc's thread control block that
// pointers are mangled with (sysdeps/x86_64/nptl/tls.h).
const pointerGuard = 0x30

// transfer applies an instruction that neither branches nor calls.
func (w *walker) transfer(in *insn, s *state) {
	sh := &in.shape
	switch op := sh.Opcode(); op {
	case 0x89:
		size := int64(sh.OperandSize())
		v := s.regs[sh.Reg()]
		if r, ok := sh.RM(); ok {
			w.setFrom(s, r, sh.Reg(), w.sized(v, size, in.off))
		} else {
			w.store(in, s, size, v)
		}
	case 0x8b:
		size := int64(sh.OperandSize())
		if r, ok := sh.RM(); ok {
			w.setFrom(s, sh.Reg(), r, w.sized(s.regs[r], size, in.off))
		} else if size >= 4 {
			w.setFrom(s, sh.Reg(), disasm.NoRegister, w.load(in, s, size))
		} else {
			w.set(s, sh.Reg(), value{})
		}
	case 0x8d:
		w.set(s, sh.Reg(), w.lea(in, s))
	case 0xb8, 0xb9, 0xba, 0xbb, 0xbc, 0xbd, 0xbe, 0xbf:
		w.set(s, sh.OpReg(), w.immediate(in))
	case 0xc7:
		if sh.Digit() != 0 {
			w.other(in, s)
			return
		}
		v := w.immediate(in)
		if r, ok := sh.RM(); ok {
			w.set(s, r, v)
		} else {
			w.store(in, s, int64(sh.OperandSize()), v)
		}
	case 0x31, 0x33, 0x29, 0x2b:
		if r, ok := sh.RM(); ok && r == sh.Reg() {
			w.set(s, r, value{k: constant})
			return
		}
		w.other(in, s)
		if m, ok := sh.Memory(); ok && op == 0x33 && m.Segment == disasm.FS && m.Disp == pointerGuard &&
			m.Base == disasm.NoRegister && m.Index == disasm.NoRegister {
			w.set(s, sh.Reg(), value{k: guarded})
		}
	case 0x01, 0x03:
		w.add(in, s)
	case 0x81, 0x83:
		w.arithmetic(in, s)
	case 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x84, 0x85, 0xa8, 0xa9,
		disasm.Escape0F | 0x1f, disasm.Escape0F | 0x1e, disasm.Escape0F | 0x18, disasm.Escape0F | 0x0d:
		// Comparisons and hints: no value goes anywhere.
	case 0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57:
		w.push(s, s.regs[sh.OpReg()], in.off)
	case 0x58, 0x59, 0x5a, 0x5b, 0x5c, 0x5d, 0x5e, 0x5f:
		v := value{}
		if sp := s.regs[disasm.RSP]; sp.k == frame {
			v, _ = s.word(sp.n, 8)
		}
		w.adjust(s, 8)
		w.set(s, sh.OpReg(), v)
	case 0x68, 0x6a:
		w.push(s, w.immediate(in), in.off)
	case 0xc9:
		w.set(s, disasm.RSP, s.regs[disasm.RBP])
		v := value{}
		if sp := s.regs[disasm.RSP]; sp.k == frame {
			v, _ = s.word(sp.n, 8)
		}
		w.adjust(s, 8)
		w.set(s, disasm.RBP, v)
	case 0x63:
		w.movsxd(in, s)
	default:
		if op >= disasm.Escape0F|0x40 && op <= disasm.Escape0F|0x4f {
			w.cmov(in, s)
			return
		}
		w.other(in, s)
	}
}

func (w *walker) set(s *state, r disasm.Register, v value) { s.regs[r] = v }

// setFrom is set for a move from register from: the stack pointer is the
// function's own while it comes from the frame pointer.
func (w *walker) setFrom(s *state, r, from disasm.Register, v value) {
	if r == disasm.RSP && v.k != frame && from != disasm.RBP {
		v = value{k: otherStack}
	}
	w.set(s, r, v)
}

// sized is a register's value after a move of size bytes.
func (w *walker) sized(v value, size int64, off uint32) value {
	switch size {
	case 8:
		return v
	case 4:
		return narrow(v)
	}
	return value{}
}

// immediate is an immediate operand, which in a program at fixed addresses may
// be an address.
func (w *walker) immediate(in *insn) value {
	imm, _ := in.shape.Imm()
	if in.shape.OperandSize() == 4 && in.shape.Opcode() != 0xc7 {
		imm = int64(uint32(imm))
	}
	if !w.pie && w.isAddress(imm) {
		if !w.isCode(uint64(imm)) {
			w.spanRef(uint64(imm), in.off)
		}
		return value{k: address, n: imm}
	}
	return value{k: constant, n: imm}
}

func (w *walker) lea(in *insn, s *state) value {
	if m, ok := in.shape.Memory(); ok && m.Base <= disasm.R15 && m.Index <= disasm.R15 && m.Scale == 1 && m.Disp == 0 {
		a, b := s.regs[m.Base], s.regs[m.Index]
		if a.k == address && b.k == tableEntry {
			a, b = b, a
		}
		if a.k == tableEntry && b.k == address {
			return value{k: tableJump, i: w.values.keep(b), n: a.n}
		}
	}
	l, ok := w.memory(in, s)
	switch {
	case !ok:
		return value{}
	case l.base.k == frame && l.known:
		return l.base
	case l.base.k == frame:
		return value{}
	case l.base.k == address && l.known:
		if in.shape.OperandSize() == 4 && w.pie {
			w.dataRef(uint64(l.base.n), in.off)
			return value{}
		}
		if !w.isCode(uint64(l.base.n)) {
			w.spanRef(uint64(l.base.n), in.off)
		}
		return l.base
	case l.base.k == address:
		w.dataRef(uint64(l.base.n), in.off)
	case l.base.k == constant && l.known:
		return value{k: constant, n: l.base.n + l.off}
	case l.base.k == external && l.known:
		return value{k: external, i: l.base.i, n: l.base.n + l.off}
	case l.base.k == param && l.off == 0 && l.known:
		return l.base
	case l.base.k == external || l.base.k == oneOf:
		w.escapeCode(l.base, in.off)
	}
	return value{}
}

// add handles the sums of switch statements; other sums are not followed.
func (w *walker) add(in *insn, s *state) {
	sh := &in.shape
	dst, src := sh.Reg(), disasm.NoRegister
	if r, ok := sh.RM(); ok {
		src = r
		if sh.Opcode() == 0x01 {
			dst, src = r, sh.Reg()
		}
	}
	if src == disasm.NoRegister {
		w.other(in, s)
		return
	}
	a, b := s.regs[dst], s.regs[src]
	if a.k == address && b.k == tableEntry {
		a, b = b, a
	}
	switch {
	case a.k == tableEntry && b.k == address:
		// Entries count from the table, or from a label of the function.
		w.set(s, dst, value{k: tableJump, i: w.values.keep(b), n: a.n})
	case a.k == constant && b.k == constant:
		w.set(s, dst, value{k: constant, n: a.n + b.n})
	case w.isLabel(a) || w.isLabel(b):
		w.other(in, s)
		w.set(s, dst, value{k: labelJump})
	default:
		w.other(in, s)
	}
}

// isLabel reports whether v is an address inside the function.
func (w *walker) isLabel(v value) bool {
	return v.k == address && uint64(v.n) > w.start && uint64(v.n) < w.end
}

// arithmetic handles add, sub, and, or, xor, cmp with an immediate operand.
func (w *walker) arithmetic(in *insn, s *state) {
	sh := &in.shape
	digit := sh.Digit()
	if digit == 7 {
		return
	}
	r, ok := sh.RM()
	if !ok {
		w.other(in, s)
		return
	}
	imm, _ := sh.Imm()
	v := s.regs[r]
	switch {
	case r == disasm.RSP && digit == 4:
		// An aligned frame: keep its words apart from those above it.
		if v.k == frame {
			w.set(s, r, value{k: frame, n: v.n - 1<<20})
		}
	case (digit == 0 || digit == 5) && (v.k == frame || v.k == address || v.k == constant || v.k == external):
		if digit == 5 {
			imm = -imm
		}
		v.n += imm
		if v.k == constant && sh.OperandSize() == 4 {
			v.n = int64(uint32(v.n))
		}
		if v.k == address && w.isCode(uint64(v.n)) != w.isCode(uint64(v.n-imm)) {
			v = value{}
		}
		w.set(s, r, v)
	case digit == 1 && v.k == constant:
		w.set(s, r, value{k: constant, n: v.n | imm})
	case digit == 1 && imm == -1:
		w.set(s, r, value{k: constant, n: -1})
	case digit == 4 && v.k == constant:
		w.set(s, r, value{k: constant, n: v.n & imm})
	default:
		w.other(in, s)
	}
}

func (w *walker) adjust(s *state, by int64) {
	if sp := &s.regs[disasm.RSP]; sp.k == frame {
		sp.n += by
	} else if sp.k != otherStack {
		*sp = value{}
	}
}

func (w *walker) push(s *state, v value, off uint32) {
	w.adjust(s, -8)
	if sp := s.regs[disasm.RSP]; sp.k == frame {
		w.keep(s, sp.n, 8, v, off)
	} else {
		w.escapeCode(v, off)
	}
}

func (w *walker) movsxd(in *insn, s *state) {
	sh := &in.shape
	if r, ok := sh.RM(); ok {
		v := s.regs[r]
		if v.k == constant {
			v.n = int64(int32(v.n))
		} else if v.k == address || v.k == frame || v.k == external {
			v = value{}
		}
		w.set(s, sh.Reg(), v)
		return
	}
	l, ok := w.memory(in, s)
	if ok && l.base.k == address && l.indexed {
		w.set(s, sh.Reg(), value{k: tableEntry, n: l.base.n})
		return
	}
	if ok && l.base.k == frame && l.known {
		v, _ := s.word(l.base.n, 4)
		w.set(s, sh.Reg(), narrow(v))
		return
	}
	w.set(s, sh.Reg(), value{})
}

func (w *walker) cmov(in *insn, s *state) {
	sh := &in.shape
	var v value
	if r, ok := sh.RM(); ok {
		v = s.regs[r]
	} else {
		v = w.load(in, s, int64(sh.OperandSize()))
	}
	dst := sh.Reg()
	w.set(s, dst, w.values.merge(s.regs[dst], v, func(v value) { w.escapeOne(v, in.off) }))
}

// other applies an instruction that is not modelled: what it reads escapes, and
// what it writes is unknown.
func (w *walker) other(in *insn, s *state) {
	sh := &in.shape
	if sh.Size() == 0 { // not decoded
		for r := range s.regs {
			w.escapeCode(s.regs[r], in.off)
		}
		*s = state{crowded: true}
		return
	}
	reads := sh.Reads()
	if m, ok := sh.Memory(); ok {
		w.touch(in, s)
		// A base register is only followed; the operand in ModRM.reg may be read.
		for _, r := range []disasm.Register{m.Base, m.Index} {
			if r <= disasm.R15 && r != sh.Reg() {
				reads &^= 1 << r
			}
		}
	}
	for r := disasm.RAX; r <= disasm.R15; r++ {
		if reads.Has(r) {
			w.escapeCode(s.regs[r], in.off)
			if s.regs[r].k == frame && r != disasm.RSP {
				w.escapeStored(s.regs[r], in.off)
			}
		}
	}
	for r := disasm.RAX; r <= disasm.R15; r++ {
		if sh.Writes().Has(r) {
			s.regs[r] = value{}
		}
	}
	if imm, ok := sh.Imm(); ok && !w.pie && w.isAddress(imm) {
		w.escapeOne(value{k: address, n: imm}, in.off)
	}
}

// maxOperand is the size in bytes of the largest memory operand (a ZMM register;
// the state-saving instructions, which are larger, hold no addresses).
const maxOperand = 64

// touch applies the memory operand of an instruction that is not modelled.
func (w *walker) touch(in *insn, s *state) {
	l, ok := w.memory(in, s)
	if !ok {
		return
	}
	size := int64(in.shape.MemBytes())
	switch l.base.k {
	case address:
		if !l.known {
			w.dataRef(uint64(l.base.n), in.off)
			return
		}
		for a := l.base.n &^ 7; a < l.base.n+size; a += 8 {
			if _, ok := w.pointer(uint64(a)); ok {
				w.slotRef(uint64(a), in.off)
			}
		}
	case external:
		if !l.known {
			w.contentsEscape(l.base, in.off)
			return
		}
		for n := l.base.n + l.off; n < l.base.n+l.off+size; n += 8 {
			w.ref(Ref{Off: in.off, Kind: RefImportSlot, Target: l.base.i, Addend: n &^ 7})
		}
	case oneOf:
		w.contentsEscape(l.base, in.off)
	case frame:
		if !l.known {
			w.frameRead(s, in.off)
			s.stack, s.crowded = s.stack[:0], true
			return
		}
		for i := range s.stack {
			if word := &s.stack[i]; word.off < l.base.n+size && l.base.n < word.off+word.size {
				w.escapeCode(word.v, in.off)
				word.v = value{}
			}
		}
	}
}
