package objfile

import (
	"bytes"
	"debug/elf"
	"os"
	"strings"
	"testing"
)

// checkFuzz fails on an error that exercise calls broken or that is of no documented
// kind.
func checkFuzz(t *testing.T, b []byte) {
	t.Helper()
	f, err := NewFile(bytes.NewReader(b), int64(len(b)), "fuzz")
	if err != nil {
		checkErrors(t, []error{err})
		return
	}
	errs := exercise(f)
	for _, err := range errs {
		if strings.HasPrefix(err.Error(), "broken: ") {
			t.Fatal(err)
		}
	}
	checkErrors(t, errs)
}

func FuzzFile(f *testing.F) {
	small, err := os.ReadFile("testdata/small.so")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(small)
	f.Add(tiny().bytes())
	f.Add(elf32())
	headerless := tiny()
	headerless.sections = nil
	f.Add(headerless.bytes())
	for _, named := range []bool{true, false} {
		f.Add(goImage(Go120, false, named).bytes())
	}
	f.Fuzz(checkFuzz)
}

// FuzzGoTable puts the input where a Go program has its function table.
func FuzzGoTable(f *testing.F) {
	m := goImage(Go120, true, true)
	for _, layout := range []GoLayout{Go12, Go116, Go118, Go120} {
		f.Add(goTableBytes(layout, m.text, m.text))
	}
	f.Fuzz(func(t *testing.T, table []byte) {
		m := newImage()
		m.text = m.add(make([]byte, textSize))
		at := m.add(table)
		m.section(Section{Name: ".gopclntab", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC, Addr: at, Offset: at - base, Size: uint64(len(table))})
		checkFuzz(t, m.bytes())
	})
}

// FuzzDemangle: names come from the file too.
func FuzzDemangle(f *testing.F) {
	for _, s := range []string{"_ZNSt6thread4joinEv", "_ZN3foo3barIiEEvT_", "_RNvC7mycrate3foo", "_ZN4core3fmt9Formatter3pad17h0123456789abcdefE"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if d := Demangle(name); len(d) > maxMangled && len(d) > len(name) {
			t.Errorf("%d bytes from %d", len(d), len(name))
		}
	})
}
