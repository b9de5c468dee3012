package objfile

import (
	"bytes"
	"debug/elf"
	"encoding/hex"
	"testing"
)

// The tests' own tiny shared library: written here byte by byte, so that each test
// can damage what it wants. Everything is in one segment that is readable, writable
// and executable, at vaddr base and file offset 0, so that vaddr = base + offset.
const base = 0x10000

type image struct {
	b        []byte
	machine  elf.Machine
	typ      elf.Type
	dyn      []uint64 // tag, value, …
	dynamic  uint64   // vaddr of the dynamic section
	text     uint64
	notes    Span
	interp   Span
	sections []Section
	memsz    uint64 // added to the segment's size in the file

	strings map[string]uint32 // offset of each in the dynamic string table
}

const (
	headerRoom = 64 + 5*56
	textSize   = 0x100
)

func newImage() *image {
	return &image{b: make([]byte, headerRoom), machine: elf.EM_X86_64, typ: elf.ET_DYN, strings: map[string]uint32{}}
}

// add appends data, aligned to 8 bytes, and returns its vaddr.
func (m *image) add(data []byte) uint64 {
	for len(m.b)%8 != 0 {
		m.b = append(m.b, 0)
	}
	at := base + uint64(len(m.b))
	m.b = append(m.b, data...)
	return at
}

// words encodes values in little-endian order, each as wide as its type.
func words(values ...any) []byte {
	var b []byte
	for _, v := range values {
		switch v := v.(type) {
		case uint8:
			b = append(b, v)
		case uint16:
			b = le.AppendUint16(b, v)
		case uint32:
			b = le.AppendUint32(b, v)
		case uint64:
			b = le.AppendUint64(b, v)
		case int64:
			b = le.AppendUint64(b, uint64(v))
		case string:
			b = append(b, v...)
		default:
			panic("words: unknown type")
		}
	}
	return b
}

func (m *image) tag(tag elf.DynTag, v uint64) { m.dyn = append(m.dyn, uint64(tag), v) }

// dynstr adds the dynamic string table.
func (m *image) dynstr(names ...string) {
	table := []byte{0}
	for _, n := range names {
		m.strings[n] = uint32(len(table))
		table = append(append(table, n...), 0)
	}
	m.tag(elf.DT_STRTAB, m.add(table))
	m.tag(elf.DT_STRSZ, uint64(len(table)))
}

func sym(name uint32, bind elf.SymBind, typ elf.SymType, shndx elf.SectionIndex, value, size uint64) []byte {
	return words(name, elf.ST_INFO(bind, typ), uint8(0), uint16(shndx), value, size)
}

func (m *image) section(s Section) int {
	if len(m.sections) == 0 {
		m.sections = append(m.sections, Section{})
	}
	m.sections = append(m.sections, s)
	return len(m.sections) - 1
}

// bytes writes the headers and returns the file.
func (m *image) bytes() []byte {
	if m.dyn != nil {
		var d []byte
		for _, v := range append(m.dyn, 0, 0) {
			d = le.AppendUint64(d, v)
		}
		m.dynamic = m.add(d)
	}
	shoff, shnum := m.sectionHeaders()
	size := uint64(len(m.b))
	b := m.b
	copy(b, elf.ELFMAG)
	b[elf.EI_CLASS], b[elf.EI_DATA], b[elf.EI_VERSION] = 2, 1, 1
	le.PutUint16(b[16:], uint16(m.typ))
	le.PutUint16(b[18:], uint16(m.machine))
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[24:], m.text)
	le.PutUint64(b[32:], 64)
	le.PutUint64(b[40:], shoff)
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[58:], 64)
	le.PutUint16(b[60:], uint16(shnum))
	le.PutUint16(b[62:], uint16(max(shnum-1, 0)))
	phnum := 0
	segment := func(typ elf.ProgType, addr, filesz, memsz, align uint64) {
		h := words(uint32(typ), uint32(elf.PF_R|elf.PF_W|elf.PF_X), addr-base, addr, addr, filesz, memsz, align)
		copy(b[64+56*phnum:], h)
		phnum++
	}
	segment(elf.PT_LOAD, base, size, size+m.memsz, 0x1000)
	if m.dyn != nil {
		n := uint64(len(m.dyn)+2) * 8
		segment(elf.PT_DYNAMIC, m.dynamic, n, n, 8)
	}
	if m.notes.Size != 0 {
		segment(elf.PT_NOTE, m.notes.Addr, m.notes.Size, m.notes.Size, 4)
	}
	if m.interp.Size != 0 {
		segment(elf.PT_INTERP, m.interp.Addr, m.interp.Size, m.interp.Size, 1)
	}
	le.PutUint16(b[56:], uint16(phnum))
	return b
}

// sectionHeaders appends the section names and headers, with .shstrtab as the last.
func (m *image) sectionHeaders() (shoff uint64, n int) {
	if len(m.sections) == 0 {
		return 0, 0
	}
	i := m.section(Section{Name: ".shstrtab", Type: elf.SHT_STRTAB})
	names := []byte{0}
	offsets := make([]uint32, len(m.sections))
	for j, s := range m.sections {
		offsets[j] = uint32(len(names))
		names = append(append(names, s.Name...), 0)
	}
	m.sections[i].Offset, m.sections[i].Size = m.add(names)-base, uint64(len(names))
	var headers []byte
	for j, s := range m.sections {
		headers = append(headers, words(offsets[j], uint32(s.Type), uint64(s.Flags), s.Addr, s.Offset, s.Size,
			s.Link, s.Info, s.Align, s.Entsize)...)
	}
	return m.add(headers) - base, len(m.sections)
}

const tinyBuildID = "0123456789abcdef0123456789abcdef01234567"

// tiny returns an image with one of everything. The symbols of .dynsym are 1 puts
// (needed, version NEED_1), 2 api (defined, V_1, default), 3 api (defined, V_0, old).
func tiny() *image {
	m := newImage()
	m.text = m.add(bytes.Repeat([]byte{0x90}, textSize))
	id, _ := hex.DecodeString(tinyBuildID)
	note := words(uint32(4), uint32(0), uint32(7), "GNU\x00", uint32(4), uint32(len(id)), uint32(3), "GNU\x00")
	note = append(note, id...)
	m.notes = Span{m.add(note), uint64(len(note))}
	interp := "/lib/ld.so\x00"
	m.interp = Span{m.add([]byte(interp)), uint64(len(interp))}
	m.dynstr("libneed.so.1", "tiny.so", "puts", "api", "NEED_1", "V_0", "V_1", "/opt/lib")
	m.tag(elf.DT_NEEDED, uint64(m.strings["libneed.so.1"]))
	m.tag(elf.DT_SONAME, uint64(m.strings["tiny.so"]))
	m.tag(elf.DT_RUNPATH, uint64(m.strings["/opt/lib"]))
	m.tag(elf.DT_FLAGS_1, uint64(elf.DF_1_NOW))
	m.addDynsym()
	m.addVersions()
	m.addRelocs()
	m.addSymtab()
	return m
}

func (m *image) addDynsym() {
	syms := make([]byte, symSize)
	syms = append(syms, sym(m.strings["puts"], elf.STB_GLOBAL, elf.STT_FUNC, elf.SHN_UNDEF, 0, 0)...)
	syms = append(syms, sym(m.strings["api"], elf.STB_GLOBAL, elf.STT_FUNC, 1, m.text+0x40, 0x20)...)
	syms = append(syms, sym(m.strings["api"], elf.STB_GLOBAL, elf.STT_FUNC, 1, m.text+0x60, 0x20)...)
	m.tag(elf.DT_SYMTAB, m.add(syms))
	m.tag(elf.DT_HASH, m.add(words(uint32(1), uint32(4), uint32(3), uint32(0), uint32(0), uint32(1), uint32(2))))
}

func (m *image) addVersions() {
	m.tag(elf.DT_VERSYM, m.add(words(uint16(0), uint16(4), uint16(3), uint16(2|versionHidden))))
	def := func(ndx uint16, name string, next uint32) []byte {
		return words(uint16(1), uint16(0), ndx, uint16(1), uint32(0), uint32(20), next, m.strings[name], uint32(0))
	}
	m.tag(elf.DT_VERDEF, m.add(append(def(2, "V_0", 28), def(3, "V_1", 0)...)))
	m.tag(elf.DT_VERDEFNUM, 2)
	m.tag(elf.DT_VERNEED, m.add(words(
		uint16(1), uint16(1), m.strings["libneed.so.1"], uint32(16), uint32(0),
		uint32(0), uint16(0), uint16(4), m.strings["NEED_1"], uint32(0))))
	m.tag(elf.DT_VERNEEDNUM, 1)
}

func (m *image) addRelocs() {
	// Ten words: the first four by RELA, then RELR: word 4, and by bitmap 5 and 7.
	var data []byte
	for i := range uint64(10) {
		data = le.AppendUint64(data, m.text+i)
	}
	at := m.add(data)
	rela := func(i uint64, typ elf.R_X86_64, sym uint32, addend uint64) []byte {
		return words(at+8*i, uint32(typ), sym, addend)
	}
	table := bytes.Join([][]byte{
		rela(1, elf.R_X86_64_RELATIVE, 0, m.text+0x10),
		rela(0, elf.R_X86_64_64, 2, 4),
		rela(2, elf.R_X86_64_GLOB_DAT, 1, 0),
	}, nil)
	m.tag(elf.DT_RELA, m.add(table))
	m.tag(elf.DT_RELASZ, uint64(len(table)))
	m.tag(elf.DT_JMPREL, m.add(rela(3, elf.R_X86_64_JMP_SLOT, 3, 0)))
	m.tag(elf.DT_PLTRELSZ, 24)
	m.tag(elf.DT_PLTREL, uint64(elf.DT_RELA))
	m.tag(dtRELR, m.add(words(at+32, uint64(0b1011))))
	m.tag(dtRELRSZ, 16)
	m.tag(elf.DT_INIT_ARRAY, at)
	m.tag(elf.DT_INIT_ARRAYSZ, uint64(len(data)))
}

func (m *image) addSymtab() {
	m.section(Section{Name: ".text", Type: elf.SHT_PROGBITS, Flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR,
		Addr: m.text, Offset: m.text - base, Size: textSize})
	names := "\x00local\x00"
	strtab := m.add([]byte(names)) - base
	i := m.section(Section{Name: ".strtab", Type: elf.SHT_STRTAB, Offset: strtab, Size: uint64(len(names))})
	syms := append(make([]byte, symSize), sym(1, elf.STB_LOCAL, elf.STT_FUNC, 1, m.text+0x10, 0x10)...)
	m.section(Section{Name: ".symtab", Type: elf.SHT_SYMTAB, Offset: m.add(syms) - base, Size: uint64(len(syms)),
		Link: uint32(i), Entsize: symSize})
}

// patch finds a dynamic tag in a finished image and sets its value.
func (m *image) patch(t testing.TB, tag elf.DynTag, value uint64) {
	t.Helper()
	for b := m.b[m.dynamic-base:]; len(b) >= 16; b = b[16:] {
		switch elf.DynTag(le.Uint64(b)) {
		case tag:
			le.PutUint64(b[8:], value)
			return
		case elf.DT_NULL:
			t.Fatalf("no %v", tag)
		}
	}
}

// value returns the value of a dynamic tag.
func (m *image) value(tag elf.DynTag) uint64 {
	for i := 0; i < len(m.dyn); i += 2 {
		if m.dyn[i] == uint64(tag) {
			return m.dyn[i+1]
		}
	}
	return 0
}

func open(t testing.TB, b []byte) *File {
	t.Helper()
	f, err := NewFile(bytes.NewReader(b), int64(len(b)), "test.so")
	if err != nil {
		t.Fatal(err)
	}
	return f
}
