package objfile

import (
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestTiny(t *testing.T) {
	m := tiny()
	f := open(t, m.bytes())
	if f.SectionsErr != nil {
		t.Error(f.SectionsErr)
	}
	if f.BuildID != tinyBuildID || f.Interp != "/lib/ld.so" || f.Class != 64 ||
		f.Machine != elf.EM_X86_64 || f.Type != elf.ET_DYN || f.Entry != m.text {
		t.Errorf("header: %+v", f)
	}
	if errs := exercise(f); errs != nil {
		t.Error(errs)
	}
	d, err := f.Dynamic()
	if err != nil {
		t.Fatal(err)
	}
	want := &Dynamic{
		Needed: []string{"libneed.so.1"}, Soname: "tiny.so", Runpath: "/opt/lib",
		InitArray: Span{m.value(elf.DT_INIT_ARRAY), 80}, Flags1: elf.DF_1_NOW,
	}
	if diff := cmp.Diff(want, d, cmpopts.IgnoreUnexported(Dynamic{})); diff != "" {
		t.Error(diff)
	}
	syms, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	fn := func(name string, at, size uint64) Symbol {
		return Symbol{Name: name, Value: m.text + at, Size: size, Type: elf.STT_FUNC, Bind: elf.STB_GLOBAL, Shndx: 1, Source: SourceDynsym}
	}
	local, puts, api1, api0 := fn("local", 0x10, 0x10), fn("puts", -m.text, 0), fn("api", 0x40, 0x20), fn("api", 0x60, 0x20)
	local.Bind, local.Source = elf.STB_LOCAL, SourceSymtab
	puts.Shndx, puts.Version = elf.SHN_UNDEF, "NEED_1"
	api1.Version, api1.VersionDefault = "V_1", true
	api0.Version = "V_0"
	if diff := cmp.Diff([]Symbol{local, puts, api1, api0}, syms); diff != "" {
		t.Error(diff)
	}
}

func TestTinyRelocations(t *testing.T) {
	m := tiny()
	f := open(t, m.bytes())
	got, err := f.Relocations()
	if err != nil {
		t.Fatal(err)
	}
	at, text := m.value(elf.DT_INIT_ARRAY), m.text
	want := []Reloc{
		{at, uint32(elf.R_X86_64_64), 2, 4},
		{at + 8, uint32(elf.R_X86_64_RELATIVE), 0, int64(text + 0x10)},
		{at + 16, uint32(elf.R_X86_64_GLOB_DAT), 1, 0},
		{at + 24, uint32(elf.R_X86_64_JMP_SLOT), 3, 0},
		{at + 32, uint32(elf.R_X86_64_RELATIVE), 0, int64(text + 4)},
		{at + 40, uint32(elf.R_X86_64_RELATIVE), 0, int64(text + 5)},
		{at + 56, uint32(elf.R_X86_64_RELATIVE), 0, int64(text + 7)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	d, _ := f.Dynamic()
	words, err := f.Pointers(d.InitArray)
	if err != nil {
		t.Fatal(err)
	}
	// api+4, its own addend, an import, the old api, and then what the file holds.
	wantWords := []uint64{text + 0x44, text + 0x10, 0, text + 0x60, text + 4, text + 5, text + 6, text + 7, text + 8, text + 9}
	if diff := cmp.Diff(wantWords, words); diff != "" {
		t.Error(diff)
	}
}

// TestREL reads relocations without addends, which are at their places.
func TestREL(t *testing.T) {
	m := tiny()
	at := m.value(elf.DT_INIT_ARRAY)
	table := words(at+64, uint32(elf.R_X86_64_RELATIVE), uint32(0))
	m.tag(elf.DT_REL, m.add(table))
	m.tag(elf.DT_RELSZ, uint64(len(table)))
	f := open(t, m.bytes())
	relocs, err := f.Relocations()
	if err != nil {
		t.Fatal(err)
	}
	want := Reloc{at + 64, uint32(elf.R_X86_64_RELATIVE), 0, int64(m.text + 8)}
	if got := relocs[len(relocs)-1]; got != want || len(relocs) != 8 {
		t.Errorf("%d relocations, the last %+v, want %+v", len(relocs), got, want)
	}
}

// TestPLTInRELA: some linkers make DT_JMPREL the end of DT_RELA. Nothing is counted twice.
func TestPLTInRELA(t *testing.T) {
	m := tiny()
	b := m.bytes()
	m.patch(t, elf.DT_JMPREL, m.value(elf.DT_RELA)+48)
	relocs, err := open(t, b).Relocations()
	if err != nil || len(relocs) != 6 {
		t.Errorf("%d relocations, %v", len(relocs), err)
	}
}

// TestUnhashedSymbols: a GNU hash table that holds no symbol does not tell how many
// there are: the section header does, and else the relocations.
func TestUnhashedSymbols(t *testing.T) {
	for _, named := range []bool{true, false} {
		m := tiny()
		at := m.value(elf.DT_SYMTAB)
		m.sections = nil
		if named {
			m.section(Section{Name: ".dynsym", Type: elf.SHT_DYNSYM, Addr: at, Offset: at - base, Size: 4 * symSize})
		}
		m.tag(elf.DT_GNU_HASH, m.add(words(uint32(1), uint32(1), uint32(0), uint32(0), uint32(0))))
		b := m.bytes()
		m.patch(t, elf.DT_HASH, 0)
		if syms, err := open(t, b).DynamicSymbols(); err != nil || len(syms) != 4 {
			t.Errorf("named %v: %d symbols, %v", named, len(syms), err)
		}
	}
}

// TestNoSectionHeaders holds the loader's view: all but .symtab is found without them.
func TestNoSectionHeaders(t *testing.T) {
	full := open(t, tiny().bytes())
	m := tiny()
	m.sections = nil
	f := open(t, m.bytes())
	if len(f.Sections) != 0 || f.SectionsErr != nil {
		t.Fatal(f.Sections, f.SectionsErr)
	}
	want, _ := full.DynamicSymbols()
	got, err := f.DynamicSymbols()
	if err != nil || len(want) != 4 {
		t.Fatal(err, want)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if f.BuildID != tinyBuildID {
		t.Errorf("build id %q", f.BuildID)
	}
}

func TestReadVaddr(t *testing.T) {
	m := newImage()
	m.text = m.add([]byte("text"))
	m.memsz = 100
	b := m.bytes()
	f := open(t, b)
	end := base + uint64(len(b))
	for _, c := range []struct {
		vaddr, n uint64
		want     string
		ok       bool
	}{
		{m.text, 4, "text", true},
		{m.text + 2, 6, "xt\x00\x00\x00\x00", true}, // over the end of the file's part
		{end + 98, 2, "\x00\x00", true},
		{m.text, 0, "", true},
		{end + 99, 2, "", false},
		{base - 1, 1, "", false},
		{end + 100, 1, "", false},
		{^uint64(0), 2, "", false},
		{m.text, ^uint64(0), "", false},
	} {
		got, err := f.ReadVaddr(c.vaddr, c.n)
		if (err == nil) != c.ok || string(got) != c.want {
			t.Errorf("ReadVaddr(%#x, %d) = %q, %v", c.vaddr, c.n, got, err)
		}
		if err != nil && !isFormat(err) {
			t.Errorf("ReadVaddr(%#x, %d): %T", c.vaddr, c.n, err)
		}
	}
	if off, ok := f.VaddrToOffset(m.text); off != m.text-base || !ok {
		t.Error(off, ok)
	}
	if _, ok := f.VaddrToOffset(end); ok {
		t.Error(".bss has an offset")
	}
	if v, ok := f.OffsetToVaddr(m.text - base); v != m.text || !ok {
		t.Error(v, ok)
	}
}

// TestReadAcrossChunks reads everywhere around the borders of cached chunks.
func TestReadAcrossChunks(t *testing.T) {
	m := newImage()
	data := make([]byte, 3*chunkSize)
	for i := range data {
		data[i] = byte(i * 7 / 3)
	}
	at := m.add(data)
	f := open(t, m.bytes())
	for _, start := range []uint64{0, chunkSize - headerRoom - 3, chunkSize, 2*chunkSize - 1} {
		for _, n := range []uint64{1, 8, 1000, chunkSize} {
			got, err := f.ReadVaddr(at+start, n)
			if err != nil || !bytes.Equal(got, data[start:start+n]) {
				t.Fatalf("%d bytes at %d differ: %v", n, start, err)
			}
			if cap(got) != len(got) {
				t.Errorf("append to %d bytes at %d would write to the cache", n, start)
			}
		}
	}
}

// TestOverlappingSegments: the kernel maps the later segment over the earlier one,
// and code is preferred when an offset is mapped twice.
func TestOverlappingSegments(t *testing.T) {
	m := newImage()
	a, b := m.add([]byte("first...")), m.add([]byte("second.."))
	file := m.bytes()
	load := func(flags elf.ProgFlag, off, vaddr, size uint64) []byte {
		return words(uint32(elf.PT_LOAD), uint32(flags), off, vaddr, vaddr, size, size, uint64(1))
	}
	copy(file[64:], load(elf.PF_R, a-base, 0x1000, 8))
	copy(file[64+56:], load(elf.PF_R|elf.PF_X, b-base, 0x1004, 8))
	copy(file[64+112:], load(elf.PF_R, b-base, 0x2000, 8))
	le.PutUint16(file[56:], 3)
	f := open(t, file)
	if got, err := f.ReadVaddr(0x1004, 4); string(got) != "seco" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := f.ReadVaddr(0x1000, 4); string(got) != "firs" {
		t.Errorf("%q, %v", got, err)
	}
	if v, ok := f.OffsetToVaddr(b - base); v != 0x1004 || !ok {
		t.Errorf("%#x, %v", v, ok)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		fifo: ErrNotELF, dir: ErrNotELF, text: ErrNotELF, empty: ErrNotELF,
		filepath.Join(dir, "none"): os.ErrNotExist,
	} {
		done := make(chan error, 1)
		go func() { _, err := Open(path); done <- err }()
		select {
		case err := <-done:
			if !errors.Is(err, want) {
				t.Errorf("Open(%s): %v, want %v", path, err, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("Open(%s) hangs", path)
		}
	}
}

// TestShrunkFile: a file that got shorter after it was opened is an error, not a signal.
func TestShrunkFile(t *testing.T) {
	b := tiny().bytes()
	path := filepath.Join(t.TempDir(), "lib.so")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Truncate(path, headerRoom); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Dynamic(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Dynamic: %v", err)
	}
	if _, err := f.Symbols(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Symbols: %v", err)
	}
}

func TestUnsupported(t *testing.T) {
	big := tiny().bytes()
	big[elf.EI_DATA] = byte(elf.ELFDATA2MSB)
	_, err := NewFile(bytes.NewReader(big), int64(len(big)), "big")
	var unsupported *UnsupportedError
	if !errors.As(err, &unsupported) || !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("big-endian: %v", err)
	}
	f := open(t, elf32())
	if f.Class != 32 || f.Machine != elf.EM_386 || f.Entry != 0x1000 || len(f.Segments) != 2 {
		t.Fatalf("%+v", f)
	}
	if got, err := f.ReadVaddr(0x1000, 4); len(got) != 4 || err != nil {
		t.Errorf("ReadVaddr: %v, %v", got, err)
	}
	for what, err := range map[string]error{
		"Dynamic":        second(f.Dynamic()),
		"Symbols":        second(f.Symbols()),
		"DynamicSymbols": second(f.DynamicSymbols()),
		"Relocations":    second(f.Relocations()),
	} {
		if !errors.As(err, &unsupported) {
			t.Errorf("%s of a 32-bit file: %v", what, err)
		}
	}
	if _, err := f.GoTable(); !errors.Is(err, ErrNoGoTable) {
		t.Errorf("GoTable of a 32-bit file: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// elf32 returns an i386 executable with a segment of code and a dynamic section.
func elf32() []byte {
	b := make([]byte, 52+2*32)
	copy(b, "\x7fELF\x01\x01\x01")
	copy(b[16:], words(uint16(elf.ET_EXEC), uint16(elf.EM_386), uint32(1), uint32(0x1000), uint32(52), uint32(0),
		uint32(0), uint16(52), uint16(32), uint16(2)))
	copy(b[52:], words(uint32(elf.PT_LOAD), uint32(0), uint32(0x1000), uint32(0), uint32(len(b)), uint32(len(b)), uint32(5), uint32(1)))
	copy(b[84:], words(uint32(elf.PT_DYNAMIC), uint32(0), uint32(0x1000), uint32(0), uint32(8), uint32(8), uint32(5), uint32(1)))
	return b
}
