package cfi

import "encoding/binary"

// cursor reads little-endian fields. Past the end it yields zeros and sets bad, so that a reader checks once.
type cursor struct {
	data []byte
	pos  int
	bad  bool
}

func (c *cursor) left() int { return len(c.data) - c.pos }

// bytes returns the next n bytes without copying them.
func (c *cursor) bytes(n uint64) []byte {
	if n > uint64(c.left()) {
		c.bad, c.pos = true, len(c.data)
		return nil
	}
	b := c.data[c.pos : c.pos+int(n) : c.pos+int(n)]
	c.pos += int(n)
	return b
}

func (c *cursor) u8() uint8 {
	if c.pos >= len(c.data) {
		c.bad = true
		return 0
	}
	v := c.data[c.pos]
	c.pos++
	return v
}

func (c *cursor) u16() uint16 {
	if b := c.bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if b := c.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if b := c.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// uleb reads an unsigned LEB128 number; bits beyond the 64th are dropped.
func (c *cursor) uleb() uint64 {
	var v uint64
	for shift := uint(0); ; shift += 7 {
		b := c.u8()
		if shift < 64 {
			v |= uint64(b&0x7f) << shift
		}
		if b < 0x80 {
			return v
		}
	}
}

// sleb reads a signed LEB128 number.
func (c *cursor) sleb() int64 {
	var v int64
	for shift := uint(0); ; {
		b := c.u8()
		if shift < 64 {
			v |= int64(b&0x7f) << shift
		}
		shift += 7
		if b < 0x80 {
			if b&0x40 != 0 && shift < 64 {
				v |= -1 << shift
			}
			return v
		}
	}
}

// cstring reads a zero-terminated string.
func (c *cursor) cstring() string {
	start := c.pos
	for c.pos < len(c.data) {
		c.pos++
		if c.data[c.pos-1] == 0 {
			return string(c.data[start : c.pos-1])
		}
	}
	c.bad = true
	return ""
}

// Pointer encodings of the LSB, "DWARF Exception Header Encoding": a format in the low four bits, what it is relative
// to in the next three, and a flag for indirection.
const (
	encAbsptr  = 0x00
	encUleb    = 0x01
	encUdata2  = 0x02
	encUdata4  = 0x03
	encUdata8  = 0x04
	encSleb    = 0x09
	encSdata2  = 0x0a
	encSdata4  = 0x0b
	encSdata8  = 0x0c
	encFormat  = 0x0f
	encPCRel   = 0x10
	encDataRel = 0x30
	encAligned = 0x50
	encBase    = 0x70
	encIndir   = 0x80
	encOmit    = 0xff
)

// skipEncoded passes over a pointer whose value is not needed, whatever it is relative to.
func (c *cursor) skipEncoded(enc uint8) (ok bool) {
	if enc&encBase == encAligned {
		return false
	}
	_, ok = c.format(enc)
	return ok
}

// encoded reads a pointer. addr is the address of the cursor's first byte, dataBase what datarel is relative to.
// ok is false for an encoding that needs the running process (indirect) or a base that files do not give.
func (c *cursor) encoded(enc uint8, addr, dataBase uint64) (v uint64, ok bool) {
	at := addr + uint64(c.pos)
	if v, ok = c.format(enc); !ok {
		return 0, false
	}
	switch enc & (encBase | encIndir) {
	case encAbsptr:
		return v, true
	case encPCRel:
		return v + at, true
	case encDataRel:
		return v + dataBase, true
	}
	return 0, false
}

func (c *cursor) format(enc uint8) (uint64, bool) {
	switch enc & encFormat {
	case encAbsptr, encUdata8, encSdata8:
		return c.u64(), true
	case encUleb:
		return c.uleb(), true
	case encUdata2:
		return uint64(c.u16()), true
	case encUdata4:
		return uint64(c.u32()), true
	case encSleb:
		return uint64(c.sleb()), true
	case encSdata2:
		return uint64(int16(c.u16())), true
	case encSdata4:
		return uint64(int32(c.u32())), true
	}
	return 0, false
}
