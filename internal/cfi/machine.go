package cfi

import "math"

// Where a call frame program says that a caller's register is.
const (
	inPlace     = iota // untouched (also DW_CFA_same_value, and the default)
	atCFA              // saved at CFA + offset
	atRegister         // saved at register + offset (an expression of that shape)
	isCFA              // its value is CFA + offset
	inRegister         // in another register
	isUndefined        // lost; for the return address: there is no caller
	isUnknown          // described by something that is not understood
)

// location says where one register of the caller is.
type location struct {
	how    uint16
	reg    uint16
	offset int32
}

// state is one row of the table that DWARF 5 §6.4.1 describes, cut down to what a walk needs. It is a map key, so it
// has no padding.
type state struct {
	kind              uint16 // CFAKind
	reg               uint16
	offset            int32
	extra             int32
	rbx, rbp, rsp, ra location
}

// initialState is what holds before a CIE's instructions.
var initialState = state{ra: location{how: isUnknown}}

// outermostState is that of code without a caller.
var outermostState = state{ra: location{how: isUndefined}}

// maxRemembered bounds DW_CFA_remember_state; compilers nest one or two deep.
const maxRemembered = 64

// machine runs call frame programs.
type machine struct {
	cie    *cie
	state  state
	stack  []state
	plain  int64  // offset of the last CFA that was register + offset
	loc    uint64 // virtual address that the state holds for
	origin uint64 // virtual address of the program, for DW_CFA_set_loc
}

// Call frame instructions (DWARF 5 §7.24, table 7.29; GNU extensions from gcc's dwarf2.h).
const (
	cfaAdvanceLoc        = 0x40 // high two bits; the low six hold the operand
	cfaOffset            = 0x80
	cfaRestore           = 0xc0
	cfaNop               = 0x00
	cfaSetLoc            = 0x01
	cfaAdvanceLoc1       = 0x02
	cfaAdvanceLoc2       = 0x03
	cfaAdvanceLoc4       = 0x04
	cfaOffsetExtended    = 0x05
	cfaRestoreExtended   = 0x06
	cfaUndefined         = 0x07
	cfaSameValue         = 0x08
	cfaRegister          = 0x09
	cfaRememberState     = 0x0a
	cfaRestoreState      = 0x0b
	cfaDefCFA            = 0x0c
	cfaDefCFARegister    = 0x0d
	cfaDefCFAOffset      = 0x0e
	cfaDefCFAExpression  = 0x0f
	cfaExpression        = 0x10
	cfaOffsetExtendedSF  = 0x11
	cfaDefCFASF          = 0x12
	cfaDefCFAOffsetSF    = 0x13
	cfaValOffset         = 0x14
	cfaValOffsetSF       = 0x15
	cfaValExpression     = 0x16
	cfaGNUWindowSave     = 0x2d // also arm64's negate_ra_state; without meaning on amd64
	cfaGNUArgsSize       = 0x2e
	cfaGNUNegativeOffset = 0x2f
)

// run executes a program from m.state on. Before the location advances it calls advance with the new one, when m.state
// and m.loc still are the row that ends there (nil in a CIE, where no advance may be); advance returns false to stop.
// The result is false for a program that does not decode.
func (m *machine) run(program []byte, advance func(loc uint64) bool) bool {
	c := cursor{data: program}
	for c.pos < len(c.data) {
		op := c.data[c.pos]
		c.pos++
		switch op & 0xc0 {
		case cfaAdvanceLoc:
			c.pos--
		case cfaOffset:
			m.set(uint64(op&0x3f), atCFA, 0, int64(c.uleb())*m.cie.dataAlign)
			continue
		case cfaRestore:
			m.restore(uint64(op & 0x3f))
			continue
		default:
			if op < cfaSetLoc || op > cfaAdvanceLoc4 {
				if !m.execute(op, &c) || c.bad {
					return false
				}
				continue
			}
			c.pos--
		}
		loc, ok := m.nextLocation(&c)
		if !ok || loc < m.loc || advance == nil {
			return false
		}
		if !advance(loc) {
			return true
		}
		m.loc = loc
	}
	return !c.bad
}

// nextLocation reads an instruction that advances the location.
func (m *machine) nextLocation(c *cursor) (loc uint64, ok bool) {
	step := uint64(0)
	switch op := c.u8(); op {
	case cfaSetLoc:
		loc, ok = c.encoded(m.cie.fdeEnc, m.origin, 0)
		return loc, ok && !c.bad
	case cfaAdvanceLoc1:
		step = uint64(c.u8())
	case cfaAdvanceLoc2:
		step = uint64(c.u16())
	case cfaAdvanceLoc4:
		step = uint64(c.u32())
	default:
		step = uint64(op & 0x3f)
	}
	return m.loc + step*m.cie.codeAlign, !c.bad
}

// execute runs one instruction that does not move the location.
func (m *machine) execute(op uint8, c *cursor) bool {
	align := m.cie.dataAlign
	switch op {
	case cfaNop, cfaGNUWindowSave:
	case cfaGNUArgsSize:
		c.uleb()
	case cfaOffsetExtended:
		reg := c.uleb()
		m.set(reg, atCFA, 0, int64(c.uleb())*align)
	case cfaOffsetExtendedSF:
		reg := c.uleb()
		m.set(reg, atCFA, 0, c.sleb()*align)
	case cfaGNUNegativeOffset:
		reg := c.uleb()
		m.set(reg, atCFA, 0, -int64(c.uleb())*align)
	case cfaValOffset:
		reg := c.uleb()
		m.set(reg, isCFA, 0, int64(c.uleb())*align)
	case cfaValOffsetSF:
		reg := c.uleb()
		m.set(reg, isCFA, 0, c.sleb()*align)
	case cfaRestoreExtended:
		m.restore(c.uleb())
	case cfaUndefined:
		m.set(c.uleb(), isUndefined, 0, 0)
	case cfaSameValue:
		m.set(c.uleb(), inPlace, 0, 0)
	case cfaRegister:
		reg := c.uleb()
		m.set(reg, inRegister, c.uleb(), 0)
	case cfaExpression:
		reg := c.uleb()
		m.setExpression(reg, c.bytes(c.uleb()))
	case cfaValExpression:
		m.set(c.uleb(), isUnknown, 0, 0)
		c.bytes(c.uleb())
	case cfaRememberState:
		if len(m.stack) == maxRemembered {
			return false
		}
		m.stack = append(m.stack, m.state)
	case cfaRestoreState:
		// DWARF leaves it open whether the CFA is restored too. gcc, clang and all unwinders say yes.
		if len(m.stack) == 0 {
			return false
		}
		m.state = m.stack[len(m.stack)-1]
		m.stack = m.stack[:len(m.stack)-1]
		if m.state.kind == uint16(KindRegister) {
			m.plain = int64(m.state.offset)
		}
	case cfaDefCFA:
		reg := c.uleb()
		m.defCFA(reg, int64(c.uleb()))
	case cfaDefCFASF:
		reg := c.uleb()
		m.defCFA(reg, c.sleb()*align)
	case cfaDefCFARegister:
		// DWARF forbids it after an expression; libgcrypt does it, and gcc's unwinder then takes the last offset.
		m.defCFA(c.uleb(), m.plain)
	case cfaDefCFAOffset:
		if m.state.kind != uint16(KindRegister) {
			return false
		}
		m.defCFA(uint64(m.state.reg), int64(c.uleb()))
	case cfaDefCFAOffsetSF:
		if m.state.kind != uint16(KindRegister) {
			return false
		}
		m.defCFA(uint64(m.state.reg), c.sleb()*align)
	case cfaDefCFAExpression:
		m.defCFAExpression(c.bytes(c.uleb()))
	default:
		return false
	}
	return true
}

// register returns where the location of a register is kept, nil for one that is not tracked.
func (m *machine) register(reg uint64) *location {
	switch reg {
	case RegRBX:
		return &m.state.rbx
	case RegRBP:
		return &m.state.rbp
	case RegRSP:
		return &m.state.rsp
	case m.cie.ra:
		return &m.state.ra
	}
	return nil
}

func (m *machine) set(reg uint64, how uint16, other uint64, offset int64) {
	l := m.register(reg)
	if l == nil {
		return
	}
	if offset != int64(int32(offset)) || other > math.MaxUint8 || int32(offset) <= Undefined {
		how, other, offset = isUnknown, 0, 0
	}
	*l = location{how, uint16(other), int32(offset)}
}

func (m *machine) restore(reg uint64) {
	if l := m.register(reg); l != nil {
		initial := machine{cie: m.cie, state: m.cie.initial}
		*l = *initial.register(reg)
	}
}

func (m *machine) defCFA(reg uint64, offset int64) {
	m.plain = offset
	m.state.kind, m.state.extra = uint16(KindNone), 0
	if reg < RegRIP && offset == int64(int32(offset)) {
		m.state.kind, m.state.reg, m.state.offset = uint16(KindRegister), uint16(reg), int32(offset)
	}
}

// rule condenses a state. why is not zero when the state holds something that a rule cannot say.
func (s *state) rule() (r Rule, why Reason) {
	if s.ra.how == isUndefined {
		return Rule{CFA: KindEnd}, 0
	}
	if s.isSignalFrame() {
		return Rule{CFA: KindSignal}, 0
	}
	if s.kind == uint16(KindNone) {
		return Rule{}, ReasonExpression
	}
	r = Rule{CFA: CFAKind(s.kind), Reg: uint8(s.reg), CFAOffset: s.offset, CFAExtra: s.extra}
	switch {
	case s.rsp.how == inPlace, s.rsp.how == isCFA && s.rsp.offset == 0:
	default:
		return Rule{}, ReasonRegister
	}
	switch s.ra.how {
	case atCFA:
		r.RAOffset = s.ra.offset
	case inRegister:
		if s.ra.reg >= RegRIP {
			return Rule{}, ReasonRegister
		}
		r.Flags |= RAInRegister
		r.RAOffset = int32(s.ra.reg)
	default:
		return Rule{}, ReasonExpression
	}
	r.RBPOffset = s.rbp.offsetIn(&r, RBPAtRBP)
	r.RBXOffset = s.rbx.offsetIn(&r, RBXAtRBP)
	return r, 0
}

// offsetIn returns a rule's offset for a saved register, setting the flag when it is relative to rbp.
func (l location) offsetIn(r *Rule, fromRBP Flags) int32 {
	switch {
	case l.how == inPlace:
		return Same
	case l.how == atCFA:
		return l.offset
	case l.how == atRegister && l.reg == RegRBP:
		r.Flags |= fromRBP
		return l.offset
	case l.how == atRegister && r.CFA == KindRegister && l.reg == uint16(r.Reg):
		return l.offset - r.CFAOffset
	}
	return Undefined
}

// isSignalFrame reports the shape that glibc, musl with CFI and the vDSO give their rt_sigreturn trampolines: all
// registers come out of the ucontext that rsp points at (struct rt_sigframe behind its return address).
func (s *state) isSignalFrame() bool {
	at := func(l location, offset int32) bool { return l == location{atRegister, RegRSP, offset} }
	return s.kind == uint16(KindDeref) && s.reg == RegRSP && s.offset == 160 && s.extra == 0 &&
		at(s.ra, 168) && at(s.rbp, 120) && at(s.rbx, 128)
}
