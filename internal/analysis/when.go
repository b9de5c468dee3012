package analysis

import (
	"math/bits"

	"bulkhead/internal/disasm"
)

// A When says for which values of a parameter an instruction is reached: bit n of
// Not is set if it is not for n; the last bit stands for all greater numbers.
// Callers that hand over none but these do not cause it: flags and absent pointers
// are constants at most callers.
type When struct {
	Reg uint8
	Not uint64
}

const (
	whenBits  = 63 // values with a bit of their own
	whenOther = 1 << whenBits
)

// excludes reports whether the instruction is not reached for n.
func (w When) excludes(n int64) bool {
	if n < 0 || n >= whenBits {
		return w.Not&whenOther != 0
	}
	return w.Not>>n&1 != 0
}

// excluded are, by parameter in argOrder, the values that cannot have led here.
type excluded [len(argOrder)]uint64

// join keeps what neither side can have come with, and reports whether that is less.
func (e *excluded) join(o *excluded) bool {
	changed := false
	for i := range e {
		if m := e[i] & o[i]; m != e[i] {
			e[i], changed = m, true
		}
	}
	return changed
}

// when returns what is known of one parameter: that which most values are excluded
// of.
func (e *excluded) when() (When, bool) {
	var best When
	for i, not := range e {
		if not != 0 && (best.Not == 0 || bits.OnesCount64(not) > bits.OnesCount64(best.Not)) {
			best = When{argOrder[i], not}
		}
	}
	return best, best.Not != 0
}

// branch returns what the parameters cannot be where the conditional jump jcc is
// taken, and where it is not; cmp is the instruction before it.
func (w *walker) branch(cmp, jcc *insn, s *state) (taken, not excluded) {
	v, k, wide, ok := w.compared(cmp, s)
	if !ok || v.k != param {
		return
	}
	for i, reg := range argOrder {
		if uint32(reg) != v.i {
			continue
		}
		for n := range int64(whenBits + 1) {
			if n == whenBits && (!wide || k >= whenBits) {
				break // what other numbers compare like is not known
			}
			holds, known := condition(jcc.shape.Opcode(), n, k)
			if !known {
				return
			}
			if holds {
				not[i] |= 1 << n
			} else {
				taken[i] |= 1 << n
			}
		}
	}
	return
}

// compared returns what an instruction compares with the constant k; wide says that
// it is more than a byte.
func (w *walker) compared(in *insn, s *state) (v value, k int64, wide, ok bool) {
	sh := &in.shape
	op := sh.Opcode()
	k, _ = sh.Imm()
	size := int64(sh.OperandSize())
	switch op {
	case 0x84, 0x85:
		if r, isReg := sh.RM(); !isReg || r != sh.Reg() {
			return
		}
		k = 0
	case 0x80, 0x81, 0x83:
		if sh.Digit() != 7 {
			return
		}
	case 0x3c, 0x3d:
		return s.regs[disasm.RAX], k, op == 0x3d, size >= 4
	default:
		return
	}
	if op == 0x84 || op == 0x80 {
		size = 1
	} else if size < 4 {
		return
	}
	if _, isReg := sh.RM(); isReg {
		r, plain := sh.LowRM(size == 1)
		if !plain {
			return
		}
		return s.regs[r], k, size > 1, true
	}
	if l, known := w.memory(in, s); known && l.known && l.base.k == frame {
		v, ok = s.word(l.base.n, size)
		return v, k, size > 1, ok
	}
	return
}

// condition evaluates a conditional jump after a comparison of n with k.
func condition(opcode int, n, k int64) (holds, known bool) {
	un, uk := uint64(n), uint64(k)
	switch opcode &^ disasm.Escape0F & 0x0f {
	case 0x2:
		return un < uk, true
	case 0x3:
		return un >= uk, true
	case 0x4:
		return n == k, true
	case 0x5:
		return n != k, true
	case 0x6:
		return un <= uk, true
	case 0x7:
		return un > uk, true
	case 0x8:
		return n < k, k == 0
	case 0x9:
		return n >= k, k == 0
	case 0xc:
		return n < k, true
	case 0xd:
		return n >= k, true
	case 0xe:
		return n <= k, true
	case 0xf:
		return n > k, true
	}
	return false, false
}

// add excludes what o excludes.
func (e *excluded) add(o *excluded) {
	for i := range e {
		e[i] |= o[i]
	}
}

// follow follows call c of f, once a parameter can have a value for which the code
// makes it.
func (r *reach) follow(l *linked, f fid, c uint32) {
	i := l.Calls[c].When
	if i == 0 || l.Go {
		r.call(l, f, c)
		return
	}
	reg := l.Whens[i].Reg
	params, limited := r.params[f]
	if limited && params>>reg&1 == 0 || r.callbacks[f]>>reg&1 != 0 {
		r.call(l, f, c) // what callers hand over there is not followed
		return
	}
	r.use(nodeKey{f, reg}, use{kind: useWhen, call: c, fn: f})
}

// handTested passes a value of function f into a node that decides about calls and
// is used for nothing else.
func (r *reach) handTested(f fid, e Expr, to nodeKey) {
	switch e.Op {
	case OpConst:
		r.addNumber(to, e.N)
	case OpParam:
		r.use(nodeKey{f, uint8(e.I)}, use{kind: useForward, to: to, fn: f})
	default:
		r.addUnknown(to)
	}
}

// meets follows call c of f, which waited for a parameter, for the value n; nil is
// any.
func (r *reach) meets(l *linked, f fid, c uint32, n *int64) {
	if n != nil && l.Whens[l.Calls[c].When].excludes(*n) {
		return
	}
	if at := (place{f, c}); !r.followed[at] {
		r.followed[at] = true
		r.call(l, f, c)
	}
}
