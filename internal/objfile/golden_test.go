package objfile

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

// TestGolden holds all that is read from testdata/small.so, which needs no tools.
func TestGolden(t *testing.T) {
	f, err := Open("testdata/small.so")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := dump(t, f)
	const golden = "testdata/small.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
}

func dump(t *testing.T, f *File) string {
	t.Helper()
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("%d-bit %v %v entry %#x build id %s", f.Class, f.Machine, f.Type, f.Entry, f.BuildID)
	for _, s := range f.Segments {
		p("segment %v %v offset %#x vaddr %#x filesz %#x memsz %#x", s.Type, s.Flags, s.Offset, s.Vaddr, s.Filesz, s.Memsz)
	}
	for _, s := range f.Sections {
		p("section %s %v offset %#x addr %#x size %#x", s.Name, s.Type, s.Offset, s.Addr, s.Size)
	}
	d, err := f.Dynamic()
	if err != nil {
		t.Fatal(err)
	}
	p("soname %s needed %q", d.Soname, d.Needed)
	syms, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range syms {
		p("symbol %d %s@%s default %v %v %v %#x+%#x in %d", i, s.Name, s.Version, s.VersionDefault, s.Bind, s.Type, s.Value, s.Size, s.Shndx)
	}
	relocs, err := f.Relocations()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range relocs {
		p("relocation at %#x type %d symbol %d addend %#x", r.Offset, r.Type, r.Sym, r.Addend)
	}
	z, err := f.Symbolizer()
	if err != nil {
		t.Fatal(err)
	}
	for _, fn := range z.Functions() {
		p("function %s %#x to %#x", fn.Name, fn.Start, fn.End)
	}
	return b.String()
}
