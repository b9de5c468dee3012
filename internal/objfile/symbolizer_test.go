package objfile

import (
	"debug/elf"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A testSym is a symbol at an offset in the text of a test image.
type testSym struct {
	name     string
	at, size uint64
	typ      elf.SymType
	bind     elf.SymBind
}

// symbolize returns the symbolizer of an image with these symbols in .symtab.
func symbolize(t testing.TB, syms []testSym) (*Symbolizer, uint64) {
	t.Helper()
	m := newImage()
	m.text = m.add(make([]byte, textSize))
	names, table := []byte{0}, make([]byte, symSize)
	text := m.section(Section{Name: ".text", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR,
		Addr: m.text, Offset: m.text - base, Size: textSize})
	for _, s := range syms {
		table = append(table, sym(uint32(len(names)), s.bind, s.typ, elf.SectionIndex(text), m.text+s.at, s.size)...)
		names = append(append(names, s.name...), 0)
	}
	i := m.section(Section{Name: ".strtab", Type: elf.SHT_STRTAB, Offset: m.add(names) - base, Size: uint64(len(names))})
	m.section(Section{Name: ".symtab", Type: elf.SHT_SYMTAB, Offset: m.add(table) - base, Size: uint64(len(table)), Link: uint32(i)})
	z, err := open(t, m.bytes()).Symbolizer()
	if err != nil {
		t.Fatal(err)
	}
	if err := exerciseSymbolizer(z); err != nil {
		t.Fatal(err)
	}
	return z, m.text
}

func TestSymbolizer(t *testing.T) {
	const (
		fn     = elf.STT_FUNC
		label  = elf.STT_NOTYPE
		local  = elf.STB_LOCAL
		global = elf.STB_GLOBAL
		weak   = elf.STB_WEAK
	)
	for _, c := range []struct {
		name string
		syms []testSym
		want string // what holds each 16th byte of the text
	}{
		{"sized", []testSym{{"a", 0x00, 0x20, fn, global}, {"b", 0x40, 0x20, fn, local}},
			"a+0 a+10 - - b+0 b+10 - - - - - - - - - -"},
		{"unsized reaches to the next", []testSym{{"a", 0x00, 0, fn, global}, {"b", 0x40, 0x20, fn, local}, {"c", 0xe0, 0, fn, local}},
			"a+0 a+10 a+20 a+30 b+0 b+10 - - - - - - - - c+0 c+10"},
		{"one inside another", []testSym{{"out", 0x00, 0x80, fn, global}, {"in", 0x20, 0x20, fn, global}},
			"out+0 out+10 in+0 in+10 out+40 out+50 out+60 out+70 - - - - - - - -"},
		{"two inside one another", []testSym{{"a", 0x00, 0x80, fn, global}, {"b", 0x20, 0x60, fn, global}, {"c", 0x40, 0x40, fn, global}},
			"a+0 a+10 b+0 b+10 c+0 c+10 c+20 c+30 - - - - - - - -"},
		{"partly over another", []testSym{{"a", 0x00, 0x40, fn, global}, {"b", 0x20, 0x40, fn, global}},
			"a+0 a+10 b+0 b+10 b+20 b+30 - - - - - - - - - -"},
		{"label inside a function", []testSym{{"a", 0x00, 0x40, fn, global}, {"again", 0x20, 0, label, local}},
			"a+0 a+10 a+20 a+30 - - - - - - - - - - - -"},
		{"label outside", []testSym{{"a", 0x00, 0x20, fn, global}, {"tail", 0x20, 0, label, local}, {"b", 0x40, 0x10, fn, global}},
			"a+0 a+10 tail+0 tail+10 b+0 - - - - - - - - - - -"},
		{"size past the text", []testSym{{"a", 0xe0, 1 << 62, fn, global}},
			"- - - - - - - - - - - - - - a+0 a+10"},
		{"size wraps", []testSym{{"a", 0xe0, ^uint64(0), fn, global}},
			"- - - - - - - - - - - - - - a+0 a+10"},
		{"aliases of a wrapper", []testSym{
			{"__write", 0, 0x100, fn, global}, {"write", 0, 0x100, fn, weak}, {"__libc_write", 0, 0x100, fn, global}},
			repeat("write", 16)},
		{"aliases for large files", []testSym{{"open64", 0, 0x100, fn, weak}, {"__open64", 0, 0x100, fn, global}, {"open", 0, 0x100, fn, weak}},
			repeat("open", 16)},
		{"exported before local", []testSym{{"a", 0, 0x100, fn, local}, {"_zzz", 0, 0x100, fn, global}},
			repeat("_zzz", 16)},
		{"global before weak", []testSym{{"a", 0, 0x100, fn, weak}, {"zzz", 0, 0x100, fn, global}},
			repeat("zzz", 16)},
		{"sized before unsized", []testSym{{"a", 0, 0, fn, global}, {"zzz", 0, 0x100, fn, local}},
			repeat("zzz", 16)},
		{"function before label", []testSym{{"a", 0, 0, label, global}, {"zzz", 0, 0, fn, local}},
			repeat("zzz", 16)},
		{"no functions", []testSym{
			{"$x", 0, 0, label, local}, {".L1", 0, 0, label, local}, {"obj", 0, 8, elf.STT_OBJECT, global},
			{"", 0, 8, fn, global}, {"etext", 0x100, 0, label, global}, {"far", 1 << 40, 8, fn, global},
			{"runtime.text", 0, 0, fn, global}},
			strings.TrimSuffix(strings.Repeat("- ", 16), " ")},
		{"none", nil, strings.TrimSuffix(strings.Repeat("- ", 16), " ")},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 { // in whatever order they come
				z, text := symbolize(t, c.syms)
				var got []string
				for at := uint64(0); at < textSize; at += 16 {
					if name, off, ok := z.Lookup(text + at); ok {
						got = append(got, fmt.Sprintf("%s+%x", name, off))
					} else {
						got = append(got, "-")
					}
				}
				if diff := cmp.Diff(c.want, strings.Join(got, " ")); diff != "" {
					t.Error(diff)
				}
				for _, vaddr := range []uint64{0, text - 1, text + textSize, ^uint64(0)} {
					if name, _, ok := z.Lookup(vaddr); ok {
						t.Errorf("%#x is in %s", vaddr, name)
					}
				}
				slices.Reverse(c.syms)
			}
		})
	}
}

func repeat(name string, n int) string {
	var s []string
	for i := range n {
		s = append(s, fmt.Sprintf("%s+%x", name, 16*i))
	}
	return strings.Join(s, " ")
}

func TestDemangle(t *testing.T) {
	for mangled, want := range map[string]string{
		"write":               "write",
		"_start":              "_start",
		"_Z":                  "_Z",
		"_ZNSt6thread4joinEv": "std::thread::join",
		"_ZN3foo3barIiEEvT_":  "foo::bar<int>",
		"_ZN4core3fmt9Formatter3pad17h0123456789abcdefE": "core::fmt::Formatter::pad",
		"_RNvC7mycrate3foo": "mycrate::foo",
		"main.(*T).Do":      "main.(*T).Do",
	} {
		if got := Demangle(mangled); got != want {
			t.Errorf("Demangle(%q) = %q, want %q", mangled, got, want)
		}
	}
	long := "_Z" + strings.Repeat("N1a", maxMangled)
	if got := Demangle(long); got != long {
		t.Error("a name that is too long was demangled")
	}
}

// TestSymbolizerDemangles looks up twice: the second name comes from the cache.
func TestSymbolizerDemangles(t *testing.T) {
	z, text := symbolize(t, []testSym{{"_ZNSt6thread4joinEv", 0, 0x10, elf.STT_FUNC, elf.STB_GLOBAL}})
	for range 2 {
		if name, off, ok := z.Lookup(text + 4); name != "std::thread::join" || off != 4 || !ok {
			t.Error(name, off, ok)
		}
	}
	if fn := z.Find(text); fn == nil || fn.Name != "_ZNSt6thread4joinEv" {
		t.Errorf("%+v", fn)
	}
}

// TestRealSymbols: in each real file, every sized function symbol must be found at its
// first and its last byte, and be the one named or an alias or one inside it.
func TestRealSymbols(t *testing.T) {
	for _, path := range realFiles(t) {
		f, err := Open(path)
		if err != nil {
			continue // a script
		}
		defer f.Close()
		syms, err := f.Symbols()
		if err != nil {
			t.Fatal(err)
		}
		z, err := f.Symbolizer()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range syms {
			if s.Type != elf.STT_FUNC || s.Shndx == elf.SHN_UNDEF || s.Size == 0 {
				continue
			}
			first, last := z.Find(s.Value), z.Find(s.Value+s.Size-1)
			if first == nil || first.Start != s.Value {
				t.Errorf("%s: %s at %#x is in %+v", path, s.Name, s.Value, first)
			}
			if last == nil || last.Start < s.Value {
				t.Errorf("%s: the end of %s at %#x is in %+v", path, s.Name, s.Value+s.Size-1, last)
			}
		}
	}
}

// TestLibcNames holds the choice among aliases against the wrappers that people know.
func TestLibcNames(t *testing.T) {
	for _, path := range realFiles(t) {
		if !strings.HasSuffix(path, "/libc.so.6") {
			continue
		}
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		syms, err := f.DynamicSymbols()
		if err != nil {
			t.Fatal(err)
		}
		z, err := f.Symbolizer()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"read", "write", "open", "openat", "fopen", "malloc", "getaddrinfo", "execve", "fork", "mmap", "socket", "lseek"} {
			i := slices.IndexFunc(syms, func(s Symbol) bool { return s.Name == name && s.VersionDefault })
			if i < 0 {
				t.Errorf("no default version of %s", name)
				continue
			}
			if got, _, _ := z.Lookup(syms[i].Value); got != name {
				t.Errorf("%s is called %s", name, got)
			}
		}
	}
}
