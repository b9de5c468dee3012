package analysis

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// goArg turns a Go func value that a call hands over into the address of its code: a
// func value points at a closure, whose first word that is. Closures that are only
// called are on the caller's stack, those without variables in constant data.
func (w *walker) goArg(s *state, v value) value {
	if !w.sum.Go {
		return v
	}
	switch v.k {
	case frame:
		if code, ok := s.word(v.n, 8); ok && code.k == address && w.isFuncStart(uint64(code.n)) {
			return code
		}
	case address:
		if code := w.constantWord(uint64(v.n)); code != 0 && w.isFuncStart(code) {
			return value{k: address, n: int64(code)}
		}
	}
	return v
}

// constantWord returns the address that a word of constant data holds, or 0.
func (w *walker) constantWord(addr uint64) uint64 {
	if p := w.img.at(addr); p == nil || p.write && !w.constantAt(addr) {
		return 0
	}
	return w.pointerAt(addr)
}

func (w *walker) constantAt(addr uint64) bool {
	p, ok := w.pointer(addr)
	return ok && p.constant
}

func (w *walker) isFuncStart(addr uint64) bool {
	if !w.isCode(addr) {
		return false
	}
	fn, ok := w.funcAt(addr)
	return ok && w.ranges[fn].start == addr
}

// Offsets in internal/abi.ITab, the table of an interface's methods.
const itabMethods = 24

// isItab reports whether an itab may be at addr: pointers to an interface and to a
// type, a hash, and methods.
func (w *walker) isItab(addr uint64) bool {
	return w.img.at(w.constantWord(addr)) != nil && w.img.at(w.constantWord(addr+8)) != nil &&
		w.isFuncStart(w.constantWord(addr+itabMethods))
}

// funcValue notes that the address of a constant func value is taken.
func (w *walker) funcValue(addr uint64, off uint32) {
	code := w.constantWord(addr)
	if code == 0 || !w.isFuncStart(code) {
		return
	}
	if fn, ok := w.funcAt(code); ok {
		w.ref(Ref{Off: off, Kind: RefFunc, Target: fn})
	}
}

// isDeferred reports whether a call is one of those at the end of a function of Go for
// what it has deferred (cmd/compile's open-coded defers): a byte of flags on the stack is
// written, the func value is read from the stack, and called.
//
//	movb  $0x0,0x27(%rsp)   or   movb %cl,0x27(%rsp)
//	movq  0x80(%rsp),%rdx
//	movq  (%rdx),%rax
//	call  *%rax
func (w *walker) isDeferred(in *insn) bool {
	const most = 8 + 8 + 3 // bytes of the first three
	n := min(uint64(in.off), most)
	b := w.img.bytes(w.start + uint64(in.off) - n)
	if uint64(len(b)) < n || !in.shape.IsCall() {
		return false
	}
	b, ok := cutInstruction(b[:n], func(op []byte) bool { // movq (%rdx),reg
		return op[0]&^0x04 == 0x48 && op[1] == 0x8b && op[2]&0xc7 == 0x02
	}, 3)
	if !ok {
		return false
	}
	b, ok = cutInstruction(b, func(op []byte) bool { // movq off(%rsp),%rdx
		return op[0] == 0x48 && op[1] == 0x8b && op[3] == 0x24 && (len(op) == 5 && op[2] == 0x54 || len(op) == 8 && op[2] == 0x94)
	}, 5, 8)
	if !ok {
		return false
	}
	_, ok = cutInstruction(b, func(op []byte) bool {
		if op[0]&0xf0 == 0x40 {
			op = op[1:] // REX
		}
		switch {
		case len(op) < 4 || op[2] != 0x24:
			return false
		case op[0] == 0xc6: // movb $n,off(%rsp)
			return len(op) == 5 && op[1] == 0x44 || len(op) == 8 && op[1] == 0x84
		case op[0] == 0x88: // movb reg,off(%rsp)
			return len(op) == 4 && op[1]&0xc7 == 0x44 || len(op) == 7 && op[1]&0xc7 == 0x84
		}
		return false
	}, 4, 5, 7, 8)
	return ok
}

// cutInstruction removes one instruction of one of the sizes from the end of b.
func cutInstruction(b []byte, is func([]byte) bool, sizes ...int) ([]byte, bool) {
	for _, n := range sizes {
		if n <= len(b) && is(b[len(b)-n:]) {
			return b[:len(b)-n], true
		}
	}
	return b, false
}

// pushedNumber returns the constant that Go code stores as the first argument of a call
// of assembly, for functions too large to be walked: movq $n,(%rsp), earlier in the same
// block.
func (w *walker) pushedNumber(in *insn) (int64, bool) {
	if !w.sum.Go {
		return 0, false
	}
	i, ok := slices.BinarySearchFunc(w.insns, in.off, func(x insn, off uint32) int { return cmp.Compare(x.off, off) })
	for ; ok && i > 0 && !w.insns[i].leader; i-- {
		before := &w.insns[i-1]
		if before.shape.IsCall() {
			break
		}
		b := w.img.bytes(w.start + uint64(before.off))
		if before.shape.Size() == 8 && len(b) >= 8 && [4]byte(b[:4]) == [4]byte{0x48, 0xc7, 0x04, 0x24} {
			return int64(int32(binary.LittleEndian.Uint32(b[4:]))), true
		}
	}
	return 0, false
}
