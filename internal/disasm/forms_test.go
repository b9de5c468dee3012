package disasm

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// slot is the distance of generated instructions; nops fill it.
const slot = 16

// A form is one generated instruction.
type form struct {
	code   []byte
	opmap  opmap
	opcode byte
	prefix byte // 0 to 3: none, 66, F3, F2
	isReg  bool
}

// forms generates an instruction for each opcode of each map, mandatory
// prefix, ModRM.reg and kind of operand, and for several operand sizes.
func forms() (list []form) {
	for m := legacy; m <= legacy3A; m++ {
		for _, w := range []byte{0, 0x48} {
			list = appendForms(list, m, func(p, op byte) []byte {
				code := [][]byte{nil, {0x66}, {0xf3}, {0xf2}}[p]
				if w != 0 {
					code = append(code, w)
				}
				code = append(code, [][]byte{nil, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}}[m]...)
				return append(code, op)
			})
		}
	}
	for wl := byte(0); wl < 4; wl++ {
		for m := byte(1); m <= 3; m++ {
			list = appendForms(list, vex+opmap(m), func(p, op byte) []byte {
				return []byte{0xc4, 0xe0 | m, wl<<7 | 0x78 | wl<<1&4 | p, op}
			})
		}
		for m := byte(8); m <= 10; m++ {
			list = appendForms(list, xop+opmap(m-8), func(p, op byte) []byte {
				return []byte{0x8f, 0xe0 | m, wl<<7 | 0x78 | wl<<1&4 | p, op}
			})
		}
		for _, m := range []byte{1, 2, 3, 5, 6} {
			list = appendForms(list, evex+opmap(m), func(p, op byte) []byte {
				mask := byte(0)
				if gathers(m, op) {
					mask = 1 // k0 is no mask for these
				}
				return []byte{0x62, 0xf0 | m, wl<<7 | 0x7c | p, 0x08 | wl<<5&0x40 | mask, op}
			})
		}
	}
	return list
}

// appendForms adds an opcode map; start gives the bytes before ModRM.
func appendForms(list []form, m opmap, start func(p, op byte) []byte) []form {
	for op := range 256 {
		for p := range byte(4) {
			for modrm := range 256 {
				mod, rm := modrm>>6, modrm&7
				if m == legacy && isPrefix(byte(op)) || !(mod == 0 && rm == 4 || mod == 3 && (rm == 2 || usesRM(m, byte(op)))) {
					continue
				}
				code := append(start(p, byte(op)), byte(modrm), 0x0a) // SIB: rdx + rcx
				list = append(list, form{code, m, byte(op), p, mod == 3})
			}
		}
	}
	return list
}

// usesRM reports whether ModRM.rm extends the opcode.
func usesRM(m opmap, op byte) bool {
	return m == legacy && op&0xf8 == 0xd8 || m == legacy0F && (op == 0x01 || op == 0x1e || op == 0xae)
}

// gathers reports whether an EVEX opcode is a gather, a scatter or a prefetch
// of one.
func gathers(m, op byte) bool {
	return m == 2 && (op&0xfc == 0x90 || op&0xfc == 0xa0 || op&0xfe == 0xc6)
}

// isPrefix reports whether b is a prefix or an escape in the one-byte map.
func isPrefix(b byte) bool {
	switch b {
	case 0x9b: // objdump joins fwait to the instruction after it
		return true
	case 0x0f, 0x26, 0x2e, 0x36, 0x3e, 0x62, 0x64, 0x65, 0x66, 0x67, 0xc4, 0xc5, 0xf0, 0xf2, 0xf3:
		return true
	}
	return b&0xf0 == 0x40
}

// TestFormsAgainstObjdump checks length and existence of every form.
func TestFormsAgainstObjdump(t *testing.T) {
	if testing.Short() {
		t.Skip("disassembles 30 MB")
	}
	list := forms()
	image := make([]byte, len(list)*slot)
	for i := range image {
		image[i] = 0x90
	}
	for i, f := range list {
		copy(image[i*slot:], f.code)
	}
	file := filepath.Join(t.TempDir(), "forms.bin")
	if err := os.WriteFile(file, image, 0o600); err != nil {
		t.Fatal(err)
	}
	lax := 0
	objdumpRaw(t, file, func(l line) {
		if l.addr%slot != 0 {
			return
		}
		f := list[l.addr/slot]
		s, err := Scan(image[l.addr : l.addr+slot])
		switch {
		case err == ErrAmbiguous && f.prefix == 1:
		case l.isCode() && err != nil:
			t.Errorf("% x: %v; objdump: %s", f.code, err, l.text)
		case !l.isCode() && err == nil && !f.coarse():
			t.Errorf("% x: %d; objdump: %s", f.code, s.Size(), l.text)
		case !l.isCode() && err == nil:
			lax++
		case err == nil && s.Size() != len(l.code):
			t.Errorf("% x: %d; objdump: %d, %s", l.code, s.Size(), len(l.code), l.text)
		}
	})
	t.Logf("%d forms; %d that do not exist are taken for instructions", len(list), lax)
}

// coarse reports whether Scan does not look at all that decides whether the
// form exists: W, L and ModRM.reg in vector maps, SSE shifts, MPX registers, PadLock and the system groups. It never
// matters for the length.
func (f form) coarse() bool {
	switch f.opmap {
	case legacy0F:
		return bytes.IndexByte([]byte{0x01, 0x1a, 0x1b, 0x71, 0x72, 0x73, 0xa6, 0xa7, 0xae, 0xc7}, f.opcode) >= 0
	}
	return f.opmap >= vex
}
