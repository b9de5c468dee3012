package objfile

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// realFiles returns what there is of some well-known programs and libraries.
func realFiles(t testing.TB) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{
		"/lib/*/libc.so.6", "/lib/*/ld-linux-*.so.*", "/usr/lib/*/libcrypto.so.3", "/usr/lib/*/libstdc++.so.6",
		"/usr/bin/ls", "/usr/bin/python3.*[0-9]", "/usr/bin/redis-server", "/usr/sbin/nginx",
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, paths...)
	}
	self, err := os.Executable() // a Go program
	if err != nil {
		t.Fatal(err)
	}
	return append(found, self)
}

// TestAgainstDebugELF compares every header, symbol and relocation of real files with
// what the standard library reads through the section headers.
func TestAgainstDebugELF(t *testing.T) {
	for _, path := range realFiles(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			want, err := elf.Open(path)
			if err != nil {
				t.Skip(err)
			}
			defer want.Close()
			f, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if f.SectionsErr != nil {
				t.Error(f.SectionsErr)
			}
			compareHeaders(t, f, want)
			compareDynamic(t, f, want)
			compareSymbols(t, f, want)
			compareRelocations(t, f, want)
		})
	}
}

func compareHeaders(t *testing.T, f *File, want *elf.File) {
	t.Helper()
	if f.Machine != want.Machine || f.Type != want.Type || f.Entry != want.Entry || f.OSABI != want.OSABI {
		t.Errorf("header: %v %v %#x %v", f.Machine, f.Type, f.Entry, f.OSABI)
	}
	var segments []Segment
	for _, p := range want.Progs {
		segments = append(segments, Segment{p.Type, p.Flags, p.Off, p.Vaddr, p.Filesz, p.Memsz, p.Align})
	}
	if diff := cmp.Diff(segments, f.Segments); diff != "" {
		t.Error(diff)
	}
	var sections []Section
	for _, s := range want.Sections {
		sections = append(sections, Section{s.Name, s.Type, s.Flags, s.Addr, s.Offset, s.FileSize, s.Link, s.Info, s.Addralign, s.Entsize})
	}
	if diff := cmp.Diff(sections, f.Sections); diff != "" {
		t.Error(diff)
	}
	for i, s := range want.Sections {
		if s.Type == elf.SHT_NOBITS || s.Type == elf.SHT_NULL {
			continue
		}
		wantBytes, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		got, err := f.Bytes(&f.Sections[i])
		if err != nil || !bytes.Equal(got, wantBytes) {
			t.Errorf("section %s differs: %v", s.Name, err)
		}
		if s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		if got, err := f.ReadVaddr(s.Addr, s.Size); err != nil || !bytes.Equal(got, wantBytes) {
			t.Errorf("section %s differs when read by its address: %v", s.Name, err)
		}
		if off, ok := f.VaddrToOffset(s.Addr); s.Size > 0 && (off != s.Offset || !ok) {
			t.Errorf("section %s: offset %#x, %v, want %#x", s.Name, off, ok, s.Offset)
		}
	}
	if id := want.Section(".note.gnu.build-id"); id != nil {
		b, err := id.Data()
		if err != nil {
			t.Fatal(err)
		}
		if got := buildID(b, 4); f.BuildID != got || !strings.HasSuffix(string(b), fromHex(t, got)) || got == "" {
			t.Errorf("build id %q, want %q", f.BuildID, got)
		}
	}
}

func fromHex(t *testing.T, s string) string {
	t.Helper()
	var b []byte
	for i := 0; i+1 < len(s); i += 2 {
		b = append(b, byte(strings.IndexByte("0123456789abcdef", s[i])<<4|strings.IndexByte("0123456789abcdef", s[i+1])))
	}
	return string(b)
}

func compareDynamic(t *testing.T, f *File, want *elf.File) {
	t.Helper()
	d, err := f.Dynamic()
	if err != nil {
		t.Fatal(err)
	}
	for tag, got := range map[elf.DynTag][]string{
		elf.DT_NEEDED: d.Needed, elf.DT_SONAME: one(d.Soname), elf.DT_RPATH: one(d.Rpath), elf.DT_RUNPATH: one(d.Runpath),
	} {
		list, err := want.DynString(tag)
		if err != nil && want.Section(".dynamic") != nil {
			t.Fatal(err)
		}
		if !slices.Equal(list, got) {
			t.Errorf("%v: %q, want %q", tag, got, list)
		}
	}
	for name, span := range map[string]Span{".init_array": d.InitArray, ".fini_array": d.FiniArray} {
		if s := want.Section(name); s != nil && (span != Span{s.Addr, s.Size}) {
			t.Errorf("%s: %+v, want %#x, %#x", name, span, s.Addr, s.Size)
		}
	}
}

func one(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func compareSymbols(t *testing.T, f *File, want *elf.File) {
	t.Helper()
	convert := func(list []elf.Symbol, source SymbolSource) []Symbol {
		var syms []Symbol
		for _, s := range list {
			syms = append(syms, Symbol{
				Name: s.Name, Version: s.Version, Value: s.Value, Size: s.Size,
				Type: elf.ST_TYPE(s.Info), Bind: elf.ST_BIND(s.Info), Vis: elf.ST_VISIBILITY(s.Other),
				Shndx: s.Section, Source: source,
				VersionDefault: s.Version != "" && s.Section != elf.SHN_UNDEF && !s.VersionIndex.IsHidden() && s.VersionIndex.Index() > 1,
			})
		}
		return syms
	}
	symtab, _ := want.Symbols() // an error says that there are none
	dynsym, _ := want.DynamicSymbols()
	all := append(convert(symtab, SourceSymtab), convert(dynsym, SourceDynsym)...)
	for i := range all {
		// debug/elf calls the file's own name, index 1, a version.
		if s := &all[i]; s.Source == SourceDynsym && !s.VersionDefault && dynsym[i-len(symtab)].VersionIndex.Index() < 2 {
			s.Version = ""
		}
	}
	got, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(all) {
		t.Fatalf("%d symbols, want %d", len(got), len(all))
	}
	different := 0
	for i := range all {
		if all[i] != got[i] && different < 5 {
			different++
			t.Errorf("symbol %d:\n got %+v\nwant %+v", i, got[i], all[i])
		}
	}
}

func compareRelocations(t *testing.T, f *File, want *elf.File) {
	t.Helper()
	var relocs []Reloc
	for _, s := range want.Sections {
		if s.Type != elf.SHT_RELA || s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		b, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		for ; len(b) >= 24; b = b[24:] {
			info := le.Uint64(b[8:])
			relocs = append(relocs, Reloc{le.Uint64(b), elf.R_TYPE64(info), elf.R_SYM64(info), int64(le.Uint64(b[16:]))})
		}
	}
	slices.SortStableFunc(relocs, func(a, b Reloc) int { return int(int64(a.Offset - b.Offset)) })
	got, err := f.Relocations()
	if err != nil {
		t.Fatal(err)
	}
	if d, _ := f.Dynamic(); d.relr.Size != 0 { // debug/elf does not know it: TestPackedRelocations does
		plain := make(map[Reloc]bool)
		for _, r := range relocs {
			plain[r] = true
		}
		got = slices.DeleteFunc(slices.Clone(got), func(r Reloc) bool { return !plain[r] })
	}
	if !slices.Equal(got, relocs) {
		t.Errorf("%d relocations, want %d, or they differ", len(got), len(relocs))
	}
}

// compile builds a C, C++ or assembler source with a tool and returns the path of the
// result, or skips the test where the tool is missing.
func compile(t testing.TB, file, source string, command ...string) string {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, file), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(command[0], append(command[1:], "-o", "out", file)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", command, err, out)
	}
	return filepath.Join(dir, "out")
}

const pointersSource = `
#include <stdio.h>
static int a(void) { return 1; }
static int b(void) { return 2; }
int exported(void) { return 3; }
int (*table[])(void) = { a, b, exported, 0, (int (*)(void))puts };
__attribute__((constructor)) static void start(void) { a(); }
int main(void) { return table[0]() + b(); }
`

// TestPackedRelocations builds the same program with and without RELR: the places and
// what they hold must be the same.
func TestPackedRelocations(t *testing.T) {
	plain := compile(t, "p.c", pointersSource, "gcc", "-pie", "-fPIE", "-O0")
	packed := compile(t, "p.c", pointersSource, "gcc", "-pie", "-fPIE", "-O0", "-Wl,-z,pack-relative-relocs")
	for _, path := range []string{plain, packed} {
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		d, err := f.Dynamic()
		if err != nil {
			t.Fatal(err)
		}
		if path == packed && d.relr.Size == 0 {
			t.Skip("the linker does not pack relocations")
		}
		at := func(name string) uint64 {
			syms, err := f.Symbols()
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range syms {
				if s.Name == name {
					return s.Value
				}
			}
			t.Fatalf("no symbol %s", name)
			return 0
		}
		got, err := f.Pointers(Span{at("table"), 40})
		if err != nil {
			t.Fatal(err)
		}
		if want := []uint64{at("a"), at("b"), at("exported"), 0, 0}; !slices.Equal(got, want) {
			t.Errorf("table: %#x, want %#x", got, want)
		}
		init, err := f.Pointers(d.InitArray)
		if err != nil || !slices.Contains(init, at("start")) {
			t.Errorf("init array: %#x, %v: no %#x", init, err, at("start"))
		}
	}
}

// TestStaticRelocations: a static executable has no PT_DYNAMIC, and IRELATIVE
// relocations for the functions that libc picks by processor.
func TestStaticRelocations(t *testing.T) {
	f, err := Open(compile(t, "s.c", "#include <string.h>\nint main(int c, char **v) { return strlen(v[0]); }", "gcc", "-static"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	relocs, err := f.Relocations()
	if err != nil || len(relocs) == 0 {
		t.Fatalf("%d relocations, %v", len(relocs), err)
	}
	irelative := map[elf.Machine]uint32{
		elf.EM_X86_64: uint32(elf.R_X86_64_IRELATIVE), elf.EM_AARCH64: uint32(elf.R_AARCH64_IRELATIVE),
	}[f.Machine]
	z, err := f.Symbolizer()
	if err != nil {
		t.Fatal(err)
	}
	var resolvers []string
	for _, r := range relocs {
		if r.Type != irelative {
			t.Errorf("relocation %+v", r)
		}
		name, off, _ := z.Lookup(uint64(r.Addend))
		if off != 0 {
			t.Errorf("the resolver at %#x is in the middle of %s", r.Addend, name)
		}
		resolvers = append(resolvers, name)
	}
	if !slices.Contains(resolvers, "strlen") {
		t.Errorf("no resolver for strlen in %v", resolvers)
	}
}

// TestDebugdata puts a symbol table in .gnu_debugdata, as Fedora's builds have it.
func TestDebugdata(t *testing.T) {
	for _, tool := range []string{"objcopy", "strip", "xz"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	path := compile(t, "d.c", "static __attribute__((noinline)) int hidden(int x) { return x + 1; }\nint main(int c, char **v) { return hidden(c); }", "gcc", "-O0")
	full, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	want, err := full.Symbolizer()
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"objcopy", "-S", "--remove-section", ".gdb_index", "--remove-section", ".comment", "--keep-symbol=hidden", "out", "mini"},
		{"xz", "mini"},
		{"strip", "out"},
		{"objcopy", "--add-section", ".gnu_debugdata=mini.xz", "out"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = filepath.Dir(path)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := f.Symbolizer()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(want.Functions(), func(fn Function) bool { return fn.Name == "hidden" })
	if i < 0 {
		t.Fatal("no function hidden before stripping")
	}
	fn := want.Functions()[i]
	if got := z.Find(fn.Start); got == nil || *got != fn {
		t.Errorf("%+v, want %+v", got, fn)
	}
}

// TestCompressedSection holds inflated debug sections against debug/elf.
func TestCompressedSection(t *testing.T) {
	path := compile(t, "z.c", pointersSource, "gcc", "-g", "-gz=zlib")
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	compressed := 0
	for i, s := range want.Sections {
		if s.Flags&elf.SHF_COMPRESSED == 0 {
			continue
		}
		compressed++
		b, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := f.Bytes(&f.Sections[i]); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s differs: %v", s.Name, err)
		}
	}
	if compressed == 0 {
		t.Skip("gcc compresses nothing")
	}
}
