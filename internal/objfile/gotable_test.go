package objfile

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// pcsp is a table of stack depths: 0 for 4 bytes, 24 for 12.
var pcsp = []byte{2, 4, 48, 12, 0}

// goTableBytes encodes a table with the functions main.a at text, with pcsp, and
// main.b 0x20 further on, a top frame in assembly, up to 0x30.
func goTableBytes(layout GoLayout, text, headerText uint64) []byte {
	const names = "\x00main.a\x00main.b\x00"
	starts := []uint64{0, 0x20, 0x30}
	head := words(uint32(layout), uint16(0), uint8(1), uint8(8), uint64(2))
	switch layout {
	case Go12:
		// Everything counts from the start: header, functab, file table, then these.
		functab := 16
		at := uint64(functab + 5*8 + 8)
		nameAt := at + 2*40
		pcspAt := nameAt + uint64(len(names))
		b := words(string(head), text, at, text+0x20, at+40, text+0x30, uint64(0))
		for i, s := range starts[:2] {
			b = append(b, words(text+s, uint32(nameAt)+1+7*uint32(i), uint32(0), uint32(0), uint32(pcspAt)*uint32(1-i),
				uint32(0), uint32(0), uint32(0), uint32(0))...)
		}
		return append(append(append(b, names...), pcsp...), make([]byte, 16)...)
	case Go116:
		const header = 64
		pctab := header + uint64(len(names))
		funcs := (pctab + 1 + uint64(len(pcsp)) + 7) &^ 7
		b := words(string(head), uint64(0), uint64(header), pctab, pctab, pctab, funcs, names, uint8(0), string(pcsp))
		b = append(b, make([]byte, funcs-uint64(len(b)))...)
		b = append(b, words(text, uint64(40), text+0x20, uint64(84), text+0x30)...)
		for i, s := range starts[:2] {
			b = append(b, words(text+s, uint32(1+7*i), uint32(0), uint32(0), uint32(1-i), uint32(0), uint32(0), uint32(0),
				uint32(0), uint8(0), uint8(5*i), uint8(0), uint8(0))...)
		}
		return b
	}
	const header = 72
	pctab := header + uint64(len(names))
	funcs := (pctab + 1 + uint64(len(pcsp)) + 7) &^ 7
	b := words(string(head), uint64(0), headerText, uint64(header), pctab, pctab, pctab, funcs, names, uint8(0), string(pcsp))
	b = append(b, make([]byte, funcs-uint64(len(b)))...)
	size := uint32(goRecords[layout].size)
	b = append(b, words(uint32(0), uint32(20), uint32(0x20), 20+size, uint32(0x30))...)
	for i, s := range starts[:2] {
		r := words(uint32(s), uint32(1+7*i), uint32(0), uint32(0), uint32(1-i), uint32(0), uint32(0), uint32(0), uint32(0))
		if layout == Go120 {
			r = append(r, words(uint32(0))...) // the first line
		}
		b = append(b, append(r, 0, byte(5*i), 0, 0)...)
	}
	return b
}

// goImage returns an image with a Go table; named says whether a section leads to it.
func goImage(layout GoLayout, inHeader, named bool) *image {
	m := newImage()
	m.text = m.add(bytes.Repeat([]byte{0xcc}, textSize))
	var headerText uint64
	if inHeader {
		headerText = m.text
	}
	b := goTableBytes(layout, m.text, headerText)
	at := m.add(b)
	module := make([]byte, moduleSize)
	le.PutUint64(module, at)
	le.PutUint64(module[moduleNames:], at+72)
	le.PutUint64(module[moduleMinPC:], m.text)
	le.PutUint64(module[moduleText:], m.text)
	m.add(le.AppendUint64(nil, at)) // a pointer to the table that is no module data
	m.add(module)
	if named {
		m.section(Section{Name: ".gopclntab", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Addr: at, Offset: at - base, Size: uint64(len(b))})
	}
	return m
}

func TestGoLayouts(t *testing.T) {
	for _, layout := range []GoLayout{Go12, Go116, Go118, Go120} {
		for _, named := range []bool{true, false} {
			for _, inHeader := range []bool{true, false} {
				m := goImage(layout, inHeader, named)
				f := open(t, m.bytes())
				table, err := f.GoTable()
				if err != nil {
					t.Errorf("%v, named %v, text in header %v: %v", layout, named, inHeader, err)
					continue
				}
				if names := map[GoLayout]string{Go12: "go1.2", Go116: "go1.16", Go118: "go1.18", Go120: "go1.20"}; table.Layout.String() != names[layout] {
					t.Errorf("%v: layout %v", layout, table.Layout)
				}
				want := []GoFunc{
					{Entry: m.text, End: m.text + 0x20, Name: "main.a"},
					{Entry: m.text + 0x20, End: m.text + 0x30, Name: "main.b", Flags: GoTopFrame | GoAsm},
				}
				if layout == Go12 {
					want[1].Flags = 0
				}
				if diff := cmp.Diff(want, table.Funcs, cmpopts.IgnoreUnexported(GoFunc{})); diff != "" {
					t.Errorf("%v: %s", layout, diff)
				}
				deltas, err := table.AppendSPDeltas(nil, &table.Funcs[0])
				if err != nil {
					t.Errorf("%v: %v", layout, err)
				}
				if diff := cmp.Diff([]SPDelta{{m.text, 0}, {m.text + 4, 24}}, deltas); diff != "" {
					t.Errorf("%v: %s", layout, diff)
				}
				if deltas, err = table.AppendSPDeltas(nil, &table.Funcs[1]); len(deltas) != 0 || err != nil {
					t.Errorf("%v: a function without a table has %v, %v", layout, deltas, err)
				}
				for vaddr, want := range map[uint64]string{m.text - 1: "", m.text: "main.a", m.text + 0x1f: "main.a", m.text + 0x20: "main.b", m.text + 0x30: ""} {
					got := ""
					if fn := table.Find(vaddr); fn != nil {
						got = fn.Name
					}
					if got != want {
						t.Errorf("%v: %#x is in %q, want %q", layout, vaddr, got, want)
					}
				}
				z, err := f.Symbolizer()
				if name, off, ok := z.Lookup(m.text + 0x21); err != nil || name != "main.b" || off != 1 || !ok {
					t.Errorf("%v: %v, %v, %v, %v", layout, name, off, ok, err)
				}
			}
		}
	}
}

// TestGoTableRelocated: up to Go 1.25 the linker leaves the address of the text in a
// position-independent program, and before 1.18 all entries, to the dynamic loader.
func TestGoTableRelocated(t *testing.T) {
	m := newImage()
	m.text = m.add(make([]byte, textSize))
	b := goTableBytes(Go118, m.text, 0)
	at := m.add(b)
	m.section(Section{Name: ".data.rel.ro.gopclntab", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Addr: at, Offset: at - base, Size: uint64(len(b))})
	m.dynstr()
	rela := words(
		at-8, uint32(elf.R_X86_64_RELATIVE), uint32(0), m.text+1, // before the table
		at+24, uint32(elf.R_X86_64_RELATIVE), uint32(0), m.text,
		at+24, uint32(elf.R_X86_64_64), uint32(0), uint64(7))
	m.tag(elf.DT_RELA, m.add(rela))
	m.tag(elf.DT_RELASZ, uint64(len(rela)))
	table, err := open(t, m.bytes()).GoTable()
	if err != nil {
		t.Fatal(err)
	}
	if table.Text != m.text || len(table.Funcs) != 2 || table.Funcs[1].Entry != m.text+0x20 {
		t.Errorf("text %#x: %+v", table.Text, table)
	}
}

func TestHostileGoTables(t *testing.T) {
	table := func(m *image) []byte { return m.b[m.sections[1].Addr-base:] }
	for _, c := range []struct {
		name   string
		damage func(b []byte)
		want   string
	}{
		{"magic", func(b []byte) { b[0] = 0 }, "unknown magic"},
		{"quantum", func(b []byte) { b[6] = 4 }, "not a header"},
		{"no functions", func(b []byte) { le.PutUint64(b[8:], 0) }, "0 functions"},
		{"too many functions", func(b []byte) { le.PutUint64(b[8:], 1<<63) }, "functions in"},
		{"names outside", func(b []byte) { le.PutUint64(b[40:], 1<<60) }, "not inside it"},
		{"names end before their start", func(b []byte) { le.PutUint64(b[32:], 80) }, "the name of function"},
		{"records outside", func(b []byte) { le.PutUint64(b[64:], 1<<60) }, "not inside it"},
		{"record outside", func(b []byte) { le.PutUint32(b[le.Uint64(b[64:])+4:], 1<<31) }, "record of function 0"},
		{"out of order", func(b []byte) { le.PutUint32(b[le.Uint64(b[64:])+8:], 0x40) }, "function 0 at"},
		{"text elsewhere", func(b []byte) { le.PutUint64(b[24:], 1<<40) }, "not in code"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := goImage(Go120, true, true)
			file := m.bytes()
			c.damage(table(m))
			_, err := open(t, file).GoTable()
			if !isFormat(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestHostileSPDeltas(t *testing.T) {
	fn := &GoFunc{Entry: 0x1000, End: 0x1010, pcsp: 1}
	for name, b := range map[string][]byte{
		"empty":         {0},
		"cut short":     {0, 2},
		"endless":       {0, 2, 0, 2, 0},
		"past the end":  {0, 2, 0x11, 0},
		"varint":        {0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		"no terminator": {0, 2, 0x10},
	} {
		g := &GoTable{quantum: 1, pctab: b}
		deltas, err := g.AppendSPDeltas(nil, fn)
		if !isFormat(err) || len(deltas) > 2 {
			t.Errorf("%s: %v, %v", name, deltas, err)
		}
	}
}

// TestNoGoTable: a program that is not Go's is told from one whose table is broken.
func TestNoGoTable(t *testing.T) {
	for _, b := range [][]byte{tiny().bytes(), newImage().bytes()} {
		if _, err := open(t, b).GoTable(); !errors.Is(err, ErrNoGoTable) {
			t.Error(err)
		}
	}
}

// TestGoRuntime compares the table of this test with what its runtime says.
func TestGoRuntime(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := f.GoTable()
	if err != nil {
		t.Fatal(err)
	}
	pc, _, _, _ := runtime.Caller(0)
	here := runtime.FuncForPC(pc)
	var bias uint64 // where a position-independent test is loaded
	for _, fn := range table.Funcs {
		if fn.Name == here.Name() {
			bias = uint64(here.Entry()) - fn.Entry
		}
	}
	for _, fn := range table.Funcs {
		got := runtime.FuncForPC(uintptr(fn.Entry + bias))
		// FuncForPC names the function inlined at an address, if there is one.
		if got == nil || uint64(got.Entry()) != fn.Entry+bias {
			t.Fatalf("%s at %#x: the runtime says %v", fn.Name, fn.Entry, got)
		}
		if strings.HasSuffix(fn.Name, ".TestGoRuntime") && got.Name() != fn.Name {
			t.Errorf("%s: the runtime says %s", fn.Name, got.Name())
		}
		last := runtime.FuncForPC(uintptr(fn.End - 1 + bias))
		if last == nil || uint64(last.Entry()) != fn.Entry+bias && last.Name() == fn.Name {
			t.Errorf("the end of %s at %#x: the runtime says %v", fn.Name, fn.End, last)
		}
	}
}

const goSource = `package main

func main() { println(len(deep(3))) }

//go:noinline
func deep(n int) []byte {
	var b [500]byte
	if n == 0 {
		return append([]byte(nil), b[:n]...)
	}
	return append(deep(n-1), b[:]...)
}
`

const cgoSource = `package main

// int twice(int x) { return 2 * x; }
import "C"

func main() { println(C.twice(21)) }
`

// TestGoBuilds compares the tables of one program, built in many ways, with its
// symbols and its .debug_frame, which the linker makes from the same stack depths.
func TestGoBuilds(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs")
	}
	for _, c := range []struct {
		name, source string
		env, flags   []string
	}{
		{"exec", goSource, []string{"CGO_ENABLED=0"}, nil},
		{"pie", goSource, []string{"CGO_ENABLED=0"}, []string{"-buildmode=pie"}},
		{"arm64", goSource, []string{"CGO_ENABLED=0", "GOARCH=arm64"}, nil},
		{"arm64 pie", goSource, []string{"CGO_ENABLED=0", "GOARCH=arm64"}, []string{"-buildmode=pie"}},
		{"cgo", cgoSource, []string{"CGO_ENABLED=1"}, []string{"-ldflags=-linkmode=external"}},
		{"cgo pie", cgoSource, []string{"CGO_ENABLED=1"}, []string{"-buildmode=pie", "-ldflags=-linkmode=external"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := goBuild(t, c.source, c.env, c.flags)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			full := open(t, b)
			table, err := full.GoTable()
			if err != nil {
				t.Fatal(err)
			}
			if table.Layout != Go120 {
				t.Errorf("layout %v", table.Layout)
			}
			compareGoSymbols(t, full, table)
			compareDebugFrame(t, full, table)
			// Without section headers the table, and from Go 1.26 on the address of
			// the text, must be searched for.
			clear(b[40:48])
			stripped, err := open(t, b).GoTable()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(table.Funcs, stripped.Funcs, cmp.AllowUnexported(GoFunc{})); diff != "" || stripped.Text != table.Text {
				t.Errorf("without section headers: text %#x, want %#x; %s", stripped.Text, table.Text, diff)
			}
		})
	}
}

func goBuild(t *testing.T, source string, env, flags []string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", append(append([]string{"build", "-o", "out"}, flags...), "main.go")...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), append(env, "GOFLAGS=", "GO111MODULE=off")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		if _, lookErr := exec.LookPath("go"); lookErr != nil {
			t.Skip(lookErr)
		}
		t.Fatalf("%v\n%s", err, out)
	}
	return filepath.Join(dir, "out")
}

// compareGoSymbols: each Go function in .symtab must be in the table, and no other.
func compareGoSymbols(t *testing.T, f *File, table *GoTable) {
	t.Helper()
	syms, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	byEntry := make(map[uint64]*Symbol)
	for i, s := range syms {
		if s.Type == elf.STT_FUNC && s.Size > 0 {
			byEntry[s.Value] = &syms[i]
		}
	}
	for i := range table.Funcs {
		fn := &table.Funcs[i]
		s := byEntry[fn.Entry]
		// The symbol of a function in assembly ends in its ABI.
		name := strings.ReplaceAll(fn.Name, "·", ".")
		if s == nil || strings.TrimSuffix(s.Name, ".abi0") != name || s.Value+s.Size > fn.End {
			t.Errorf("%s at %#x to %#x: symbol %+v", fn.Name, fn.Entry, fn.End, s)
		}
		delete(byEntry, fn.Entry)
	}
	for _, s := range byEntry {
		if strings.HasPrefix(s.Name, "main.") || strings.HasPrefix(s.Name, "runtime.") {
			t.Errorf("%s at %#x is not in the table", s.Name, s.Value)
		}
	}
}

// compareDebugFrame holds every stack depth against the CFA rules in .debug_frame.
func compareDebugFrame(t *testing.T, f *File, table *GoTable) {
	t.Helper()
	s := f.Section(".debug_frame")
	if s == nil {
		t.Fatal("no .debug_frame")
	}
	b, err := f.Bytes(s)
	if err != nil {
		t.Fatal(err)
	}
	slot := int64(0) // what is above the stack pointer at the entry
	if f.Machine == elf.EM_X86_64 {
		slot = 8
	}
	compared := 0
	for len(b) > 4 {
		n := le.Uint32(b)
		entry := b[4:][:n]
		b = b[4+n:]
		if le.Uint32(entry) == 0xffffffff {
			continue // a CIE
		}
		start := le.Uint64(entry[4:])
		fn := table.Find(start)
		if fn == nil || fn.Entry != start {
			continue // C
		}
		deltas, err := table.AppendSPDeltas(nil, fn)
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		for pc, cfa := range cfaOffsets(entry[20:], start) {
			for i+1 < len(deltas) && deltas[i+1].PC <= pc {
				i++
			}
			if len(deltas) > 0 && int64(deltas[i].Delta)+slot != cfa {
				t.Errorf("%s at %#x: depth %d, CFA at %d", fn.Name, pc, deltas[i].Delta, cfa)
			}
			compared++
		}
	}
	if compared < 1000 {
		t.Errorf("only %d rows compared", compared)
	}
}

// cfaOffsets reads the few CFA instructions that the Go linker writes.
func cfaOffsets(b []byte, pc uint64) iter.Seq2[uint64, int64] {
	leb := func() (unsigned uint64, signed int64) {
		v, n := binary.Uvarint(b)
		b = b[n:]
		return v, int64(v<<(64-7*n)) >> (64 - 7*n)
	}
	return func(yield func(uint64, int64) bool) {
		for len(b) > 0 {
			op := b[0]
			b = b[1:]
			switch {
			case op>>6 == 1: // DW_CFA_advance_loc
				pc += uint64(op & 0x3f)
			case op == 2:
				pc += uint64(b[0])
				b = b[1:]
			case op == 3:
				pc += uint64(le.Uint16(b))
				b = b[2:]
			case op == 4:
				pc += uint64(le.Uint32(b))
				b = b[4:]
			case op == 0x13: // DW_CFA_def_cfa_offset_sf
				if _, offset := leb(); !yield(pc, offset*-4) {
					return
				}
			case op == 0x11: // DW_CFA_offset_extended_sf: where the link register is
				leb()
				leb()
			case op == 7, op == 8: // DW_CFA_undefined, DW_CFA_same_value
				leb()
			case op != 0: // a nop pads
				panic(fmt.Sprintf("CFA instruction %#x", op))
			}
		}
	}
}
