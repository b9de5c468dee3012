package cfi

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The test section is loaded at sectionAddr; the code segment is at codeAddr in memory and codeOffset in the file.
const (
	sectionAddr = 0x2000
	codeAddr    = 0x10000
	codeOffset  = 0x1000
)

var testSegments = segments{{vaddr: codeAddr, offset: codeOffset, size: 0x1000}}

// section assembles .eh_frame.
type section []byte

// entry appends length, id and body, padded with DW_CFA_nop; 64-bit form if wide.
func (s *section) entry(wide bool, id func(at int) uint32, body []byte) int {
	start := len(*s)
	for (len(body)+4)%8 != 0 {
		body = append(body, 0)
	}
	if wide {
		*s = binary.LittleEndian.AppendUint32(*s, 0xffffffff)
		*s = binary.LittleEndian.AppendUint64(*s, uint64(len(body)+4))
	} else {
		*s = binary.LittleEndian.AppendUint32(*s, uint32(len(body)+4))
	}
	*s = binary.LittleEndian.AppendUint32(*s, id(len(*s)))
	*s = append(*s, body...)
	return start
}

func (s *section) cie(body ...byte) int {
	return s.entry(false, func(int) uint32 { return 0 }, body)
}

// fde appends an FDE whose encoded pointers are in body.
func (s *section) fde(cie int, body ...byte) {
	s.entry(false, func(at int) uint32 { return uint32(at - cie) }, body)
}

// plainCIE is what gcc writes: version 1, "zR", code alignment 1, data alignment -8, RA 16, pcrel sdata4;
// CFA = rsp+8, RA at CFA-8.
func (s *section) plainCIE() int {
	return s.cie(1, 'z', 'R', 0, 1, 0x78, 16, 1, 0x1b, 0x0c, 7, 8, 0x90, 1)
}

// code appends an FDE for plainCIE.
func (s *section) code(cie int, begin, size uint32, program ...byte) {
	at := sectionAddr + uint32(len(*s)) + 8
	body := binary.LittleEndian.AppendUint32(nil, begin-at)
	body = binary.LittleEndian.AppendUint32(body, size)
	s.fde(cie, append(append(body, 0), program...)...)
}

// render prints a table as one line for each row and loss.
func render(t *Table) string {
	var b strings.Builder
	for _, row := range t.Rows {
		fmt.Fprintf(&b, "%#x %s\n", row.Offset, renderRule(t.Rules[row.Rule]))
	}
	for _, l := range t.Losses {
		fmt.Fprintf(&b, "lost %#x-%#x %v\n", l.Begin, l.End, l.Reason)
	}
	return b.String()
}

func renderRule(r Rule) string {
	var s string
	switch r.CFA {
	case KindRegister:
		s = fmt.Sprintf("%s%+d", dwarfNames[r.Reg], r.CFAOffset)
	case KindDeref:
		s = fmt.Sprintf("*(%s%+d)%+d", dwarfNames[r.Reg], r.CFAOffset, r.CFAExtra)
	case KindPLT:
		s = fmt.Sprintf("plt%+d/%d", r.CFAOffset, r.CFAExtra)
	default:
		return r.CFA.String()
	}
	saved := func(name string, offset int32, atRBP Flags) {
		switch {
		case offset == Same:
		case offset == Undefined:
			s += " " + name + "=u"
		case r.Flags&atRBP != 0:
			s += fmt.Sprintf(" %s=rbp%+d", name, offset)
		default:
			s += fmt.Sprintf(" %s=c%+d", name, offset)
		}
	}
	saved("rbp", r.RBPOffset, RBPAtRBP)
	saved("rbx", r.RBXOffset, RBXAtRBP)
	switch {
	case r.Flags&RAInRegister != 0:
		s += " ra=" + dwarfNames[r.RAOffset]
	case r.RAOffset != -8:
		s += fmt.Sprintf(" ra=c%+d", r.RAOffset)
	}
	return s
}

func TestEhFrame(t *testing.T) {
	plain := func(program ...byte) func(*section) {
		return func(s *section) { s.code(s.plainCIE(), codeAddr+0x10, 0x40, program...) }
	}
	tests := []struct {
		name  string
		make  func(*section)
		want  string
		fails string
	}{
		{name: "empty", make: func(*section) {}},
		{name: "no instructions", make: plain(), want: "0x1010 rsp+8\n0x1050 none\n"},
		{
			name: "push rbp; mov rsp,rbp; push rbx; leave",
			make: plain(0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x41, 0x83, 3, 0x4a, 0x0c, 7, 8),
			want: "0x1010 rsp+8\n0x1011 rsp+16 rbp=c-16\n0x1014 rbp+16 rbp=c-16\n0x1015 rbp+16 rbp=c-16 rbx=c-24\n" +
				"0x101f rsp+8 rbp=c-16 rbx=c-24\n0x1050 none\n",
		},
		{
			name: "remember and restore state",
			make: plain(0x44, 0x0e, 32, 0x0a, 0x44, 0x0e, 8, 0x44, 0x0b),
			want: "0x1010 rsp+8\n0x1014 rsp+32\n0x1018 rsp+8\n0x101c rsp+32\n0x1050 none\n",
		},
		{
			name: "restore, extended and signed forms",
			make: plain(0x05, 6, 2, 0x11, 3, 0x7d, 0x42, 0xc6, 0x42, 0x06, 3, 0x42, 0x13, 0x7e, 0x42, 0x12, 6, 0x7c, 0x42, 0x2f, 3, 5),
			want: "0x1010 rsp+8 rbp=c-16 rbx=c+24\n0x1012 rsp+8 rbx=c+24\n0x1014 rsp+8\n0x1016 rsp+16\n0x1018 rbp+32\n" +
				"0x101a rbp+32 rbx=c+40\n0x1050 none\n",
		},
		{
			name: "advance by 1, 2 and 4 bytes; args_size, window_save, nop",
			make: plain(0x02, 5, 0x0e, 16, 0x03, 5, 0, 0x2e, 32, 0x2d, 0, 0x0e, 24, 0x04, 5, 0, 0, 0, 0x0e, 32),
			want: "0x1010 rsp+8\n0x1015 rsp+16\n0x101a rsp+24\n0x101f rsp+32\n0x1050 none\n",
		},
		{
			name: "set_loc uses the encoding of addresses",
			make: func(s *section) {
				cie := s.plainCIE()
				at := sectionAddr + uint32(len(*s)) + 8 + 9 + 1
				s.code(cie, codeAddr, 0x40, binary.LittleEndian.AppendUint32([]byte{0x01}, codeAddr+0x20-at)...)
			},
			want: "0x1000 rsp+8\n0x1040 none\n",
		},
		{
			name: "undefined return address ends the stack",
			make: plain(0x07, 16),
			want: "0x100f end\n0x1050 none\n",
		},
		{
			name: "same_value, undefined, register, val_offset, val_expression",
			make: plain(0x08, 6, 0x07, 3, 0x42, 0x09, 6, 8, 0x08, 3, 0x42, 0x14, 6, 2, 0x42, 0x16, 6, 2, 0x77, 8),
			want: "0x1010 rsp+8 rbx=u\n0x1012 rsp+8 rbp=u\n0x1050 none\n",
		},
		{
			name: "return address in a register (vfork)",
			make: plain(0x41, 0x0e, 0, 0x09, 16, 5, 0x47, 0x0e, 8, 0xd0),
			want: "0x1010 rsp+8\n0x1011 rsp+0 ra=rdi\n0x1018 rsp+8\n0x1050 none\n",
		},
		{
			name: "stack pointer in a register (longjmp)",
			make: plain(0x44, 0x09, 7, 8),
			want: "0x1010 rsp+8\n0x1014 none\nlost 0x1014-0x1050 value in an untracked register\n",
		},
		{
			name: "PLT entry",
			make: plain(0x0e, 16, 0x46, 0x0e, 24, 0x4a, 0x0f, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22),
			want: "0x1010 rsp+16\n0x1016 rsp+24\n0x1020 plt+8/11\n0x1050 none\n",
		},
		{
			name: "DRAP: rbp and rbx relative to rbp, CFA in memory",
			make: plain(0x45, 0x0c, 10, 0, 0x49, 0x10, 6, 2, 0x76, 0, 0x46, 0x0f, 3, 0x76, 0x78, 0x06, 0x10, 3, 2, 0x76, 0x70),
			want: "0x1010 rsp+8\n0x1015 r10+0\n0x101e r10+0 rbp=rbp+0\n0x1024 *(rbp-8)+0 rbp=rbp+0 rbx=rbp-16\n0x1050 none\n",
		},
		{
			name: "CFA in memory plus a constant (perlasm)",
			make: plain(0x0f, 6, 0x77, 0x98, 1, 0x06, 0x23, 8, 0x42, 0x0d, 7, 0x42, 0x0e, 16),
			want: "0x1010 *(rsp+152)+8\n0x1012 rsp+8\n0x1014 rsp+16\n0x1050 none\n",
		},
		{
			name: "saved relative to rsp",
			make: plain(0x0e, 32, 0x10, 6, 2, 0x77, 16),
			want: "0x1010 rsp+32 rbp=c-16\n0x1050 none\n",
		},
		{
			name: "signal frame",
			make: func(s *section) {
				cie := s.cie(1, 'z', 'R', 'S', 0, 1, 0x78, 16, 1, 0x1b, 0x0c, 7, 8)
				s.code(cie, codeAddr+0x0f, 0x11,
					0x0f, 4, 0x77, 0xa0, 1, 0x06, 0x10, 16, 3, 0x77, 0xa8, 1,
					0x10, 6, 3, 0x77, 0xf8, 0, 0x10, 3, 3, 0x77, 0x80, 1, 0x10, 7, 3, 0x77, 0xa0, 1)
			},
			want: "0x100e signal\n0x1020 none\n",
		},
		{
			name: "unknown expressions",
			make: plain(0x0f, 3, 0x77, 8, 0x96, 0x44, 0x0c, 7, 8, 0x10, 16, 3, 0x77, 8, 0x96),
			want: "lost 0x1010-0x1050 unknown DWARF expression\n",
		},
		{
			name: "unknown instruction",
			make: plain(0x44, 0x0e, 16, 0x44, 0x3f),
			want: "0x1010 rsp+8\n0x1014 rsp+16\n0x1018 none\nlost 0x1018-0x1050 malformed call frame program\n",
		},
		{
			name: "restore_state without remember_state",
			make: plain(0x0b),
			want: "lost 0x1010-0x1050 malformed call frame program\n",
		},
		{
			name: "rows behind the end",
			make: plain(0x02, 0x3f, 0x0e, 16, 0x42, 0x0e, 24),
			want: "0x1010 rsp+8\n0x104f rsp+16\n0x1050 none\n",
		},
		{
			name: "adjacent functions merge, gaps show",
			make: func(s *section) {
				cie := s.plainCIE()
				s.code(cie, codeAddr, 0x10)
				s.code(cie, codeAddr+0x10, 0x10, 0x41, 0x0e, 16)
				s.code(cie, codeAddr+0x30, 0x10)
			},
			want: "0x1000 rsp+8\n0x1011 rsp+16\n0x1020 none\n0x1030 rsp+8\n0x1040 none\n",
		},
		{
			name: "out of order, overlapping, outside of code",
			make: func(s *section) {
				cie := s.plainCIE()
				s.code(cie, codeAddr+0x18, 0x18, 0x4a, 0x0e, 32)
				s.code(cie, codeAddr, 0x20, 0x41, 0x0e, 16)
				s.code(cie, 0, 0x10)
				s.code(cie, codeAddr+0xff0, 0x100)
			},
			want: "0x1000 rsp+8\n0x1001 rsp+16\n0x1020 rsp+8\n0x1022 rsp+32\n0x1030 none\n0x1ff0 rsp+8\n0x2000 none\n" +
				"lost 0x1018-0x1020 overlapping descriptions\n",
		},
		{
			name: "version 3, personality and language-specific data",
			make: func(s *section) {
				cie := s.cie(3, 'z', 'P', 'L', 'R', 0, 1, 0x78, 16, 7, 0x9b, 1, 2, 3, 4, 0x1b, 0x1b, 0x0c, 7, 8, 0x90, 1)
				at := sectionAddr + uint32(len(*s)) + 8
				body := binary.LittleEndian.AppendUint32(nil, codeAddr-at)
				body = append(binary.LittleEndian.AppendUint32(body, 0x20), 4, 9, 9, 9, 9)
				s.fde(cie, append(body, 0x41, 0x0e, 16)...)
			},
			want: "0x1000 rsp+8\n0x1001 rsp+16\n0x1020 none\n",
		},
		{
			name: "version 4, absolute 8-byte addresses, no augmentation, 64-bit length, alignment 2",
			make: func(s *section) {
				cie := s.entry(true, func(int) uint32 { return 0 }, []byte{4, 0, 8, 0, 2, 0x78, 16, 0x0c, 7, 8, 0x90, 1})
				body := binary.LittleEndian.AppendUint64(nil, codeAddr)
				body = append(binary.LittleEndian.AppendUint64(body, 0x20), 0x41, 0x0e, 16)
				s.entry(true, func(at int) uint32 { return uint32(at - cie) }, body)
			},
			want: "0x1000 rsp+8\n0x1002 rsp+16\n0x1020 none\n",
		},
		{
			name: "udata4 and sdata8",
			make: func(s *section) {
				cie := s.cie(1, 'z', 'R', 0, 1, 0x78, 16, 1, 0x03, 0x0c, 7, 8, 0x90, 1)
				body := binary.LittleEndian.AppendUint32(nil, codeAddr)
				s.fde(cie, append(binary.LittleEndian.AppendUint32(body, 0x20), 0)...)
				cie = s.cie(1, 'z', 'R', 0, 1, 0x78, 16, 1, 0x1c, 0x0c, 7, 16, 0x90, 1)
				at := sectionAddr + uint64(len(*s)) + 8
				body = binary.LittleEndian.AppendUint64(nil, codeAddr+0x20-at)
				s.fde(cie, append(binary.LittleEndian.AppendUint64(body, 0x20), 0)...)
			},
			want: "0x1000 rsp+8\n0x1020 rsp+16\n0x1040 none\n",
		},
		{
			name: "indirect addresses",
			make: func(s *section) {
				cie := s.cie(1, 'z', 'R', 0, 1, 0x78, 16, 1, 0x9b, 0x0c, 7, 8, 0x90, 1)
				s.code(cie, codeAddr, 0x20)
			},
			want: "lost 0x0-0x0 unsupported pointer encoding\n",
		},
		{
			name: "terminator ends the section",
			make: func(s *section) {
				cie := s.plainCIE()
				s.code(cie, codeAddr, 0x10)
				*s = append(*s, 0, 0, 0, 0)
				s.code(cie, codeAddr+0x10, 0x10, 0x0e, 16)
			},
			want: "0x1000 rsp+8\n0x1010 none\n",
		},
		{
			name:  "truncated",
			make:  func(s *section) { s.code(s.plainCIE(), codeAddr, 0x10); *s = (*s)[:len(*s)-3] },
			fails: "truncated entry",
		},
		{
			name:  "CIE before the section",
			make:  func(s *section) { s.entry(false, func(int) uint32 { return 0x1000 }, make([]byte, 20)) },
			fails: "before the section",
		},
		{
			name:  "FDE for a CIE",
			make:  func(s *section) { cie := s.plainCIE(); s.code(cie, codeAddr, 0x10); s.code(cie+24, codeAddr, 0x10) },
			fails: "no CIE",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var s section
			test.make(&s)
			e, err := parseEhFrame(s, sectionAddr)
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Fatalf("error %v, want %q", err, test.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			e.locate(testSegments)
			if diff := cmp.Diff(test.want, render(e.build(nil))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestTooManyRules wants a loss and not a wrong rule when a row cannot index its rule.
func TestTooManyRules(t *testing.T) {
	b := newTableBuilder(0)
	for i := range uint64(1 << 16) {
		b.span(span{i * 2, i*2 + 1, Rule{CFA: KindRegister, Reg: RegRSP, CFAOffset: int32(i)}})
	}
	table := b.finish()
	if len(table.Rules) != 1<<16 || len(table.Losses) != 1 || table.Losses[0] != (Loss{2 * 65535, 2*65535 + 1, ReasonRules}) {
		t.Errorf("%d rules, losses %v", len(table.Rules), table.Losses)
	}
	if r := table.Lookup(2 * 65535); r.CFA != KindNone {
		t.Errorf("rule %+v", r)
	}
	if r := table.Lookup(2 * 65534); r.CFAOffset != 65534 {
		t.Errorf("rule %+v", r)
	}
}

func TestFDEs(t *testing.T) {
	f := openFile(t, "/lib/x86_64-linux-gnu/libc.so.6")
	fdes, err := FDEs(f)
	if err != nil {
		t.Fatal(err)
	}
	signals := 0
	for i, fde := range fdes {
		if fde.End <= fde.Begin || i > 0 && fde.Begin < fdes[i-1].Begin {
			t.Fatalf("FDE %d: %+v", i, fde)
		}
		if fde.Signal {
			signals++
		}
	}
	if len(fdes) < 3000 || signals != 1 {
		t.Errorf("%d FDEs, %d of signal frames", len(fdes), signals)
	}
}

// FuzzEhFrame feeds sections to the parser; whatever comes out must be a valid table.
func FuzzEhFrame(f *testing.F) {
	var s section
	cie := s.plainCIE()
	s.code(cie, codeAddr, 0x40, 0x41, 0x0e, 16, 0x86, 2, 0x0a, 0x43, 0x0d, 6, 0x0b)
	s.code(cie, codeAddr+0x40, 0x40, 0x0f, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22)
	f.Add([]byte(s))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := parseEhFrame(data, sectionAddr)
		if err != nil {
			return
		}
		e.locate(testSegments)
		table := e.build([]span{{codeOffset + 0x100, codeOffset + 0x200, Rule{CFA: KindEnd}}})
		if err := table.check(); err != nil {
			t.Fatal(err)
		}
		for i, row := range table.Rows {
			if row.Offset < codeOffset-1 || row.Offset > codeOffset+0x1000 {
				t.Errorf("row %d at %#x is outside of the code", i, row.Offset)
			}
			if i > 0 && row.Rule == table.Rows[i-1].Rule {
				t.Errorf("row %d repeats the rule before", i)
			}
		}
		if len(table.Rows) > len(data)+8 {
			t.Errorf("%d rows from %d bytes", len(table.Rows), len(data))
		}
		data2, err := table.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var again Table
		if err := again.UnmarshalBinary(data2); err != nil || !slices.Equal(again.Rows, table.Rows) {
			t.Fatalf("table does not survive encoding: %v", err)
		}
	})
}
