package cfi

// DWARF operators (DWARF 5 §7.7.1) that occur in call frame information.
const (
	opDeref      = 0x06
	opAnd        = 0x1a
	opPlus       = 0x22
	opPlusUconst = 0x23
	opShl        = 0x24
	opGe         = 0x2a
	opLit0       = 0x30
	opLit31      = 0x4f
	opBreg0      = 0x70
	opBreg31     = 0x8f
)

// expression reads operators one by one; ok turns false when one is not the expected.
type expression struct {
	cursor
	ok bool
}

func parseExpression(code []byte) expression { return expression{cursor{data: code}, code != nil} }

// breg reads "register + offset".
func (e *expression) breg() (reg uint8, offset int32) {
	op := e.u8()
	v := e.sleb()
	offset = int32(v)
	if op < opBreg0 || op > opBreg31 || v != int64(offset) || offset <= Undefined {
		e.ok = false
	}
	return op - opBreg0, offset
}

// lit reads a small constant.
func (e *expression) lit() int32 {
	op := e.u8()
	if op < opLit0 || op > opLit31 {
		e.ok = false
	}
	return int32(op) - opLit0
}

func (e *expression) op(want uint8) {
	if e.u8() != want {
		e.ok = false
	}
}

// done reports whether all operators were the expected ones and none is left.
func (e *expression) done() bool { return e.ok && !e.bad && e.left() == 0 }

// setExpression handles DW_CFA_expression: the register is saved at a computed address. Only "register + offset" is
// known.
func (m *machine) setExpression(reg uint64, code []byte) {
	e := parseExpression(code)
	base, offset := e.breg()
	if !e.done() {
		m.set(reg, isUnknown, 0, 0)
		return
	}
	m.set(reg, atRegister, uint64(base), int64(offset))
}

// defCFAExpression recognises the shapes of DW_CFA_def_cfa_expression; any other gives KindNone.
func (m *machine) defCFAExpression(code []byte) {
	s := &m.state
	s.kind, s.reg, s.offset, s.extra = uint16(KindNone), 0, 0, 0
	if offset, threshold, ok := matchPLT(code); ok {
		s.kind, s.reg, s.offset, s.extra = uint16(KindPLT), RegRSP, offset, threshold
		return
	}
	if reg, offset, extra, ok := matchDeref(code); ok {
		s.kind, s.reg, s.offset, s.extra = uint16(KindDeref), uint16(reg), offset, extra
		return
	}
	e := parseExpression(code)
	if reg, offset := e.breg(); e.done() && reg < RegRIP {
		s.kind, s.reg, s.offset = uint16(KindRegister), uint16(reg), offset
	}
}

// matchPLT recognises what linkers write for PLT entries of 16 bytes: rsp + offset + ((rip & 15) >= threshold) << 3.
func matchPLT(code []byte) (offset, threshold int32, ok bool) {
	e := parseExpression(code)
	reg, offset := e.breg()
	ip, zero := e.breg()
	mask := e.lit()
	e.op(opAnd)
	threshold = e.lit()
	e.op(opGe)
	shift := e.lit()
	e.op(opShl)
	e.op(opPlus)
	ok = e.done() && reg == RegRSP && ip == RegRIP && zero == 0 && mask == 15 && shift == 3
	return offset, threshold, ok
}

// matchDeref recognises *(register + offset), optionally with a constant added.
func matchDeref(code []byte) (reg uint8, offset, extra int32, ok bool) {
	e := parseExpression(code)
	reg, offset = e.breg()
	e.op(opDeref)
	if e.ok && e.left() > 0 {
		e.op(opPlusUconst)
		v := e.uleb()
		extra = int32(v)
		e.ok = e.ok && v < 1<<31
	}
	return reg, offset, extra, e.done() && reg < RegRIP
}
