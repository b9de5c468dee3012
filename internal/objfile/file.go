package objfile

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
)

// Bounds on what a file may make us allocate or loop over.
const (
	maxHeaderTable = 64 << 10  // bytes of program headers: the kernel's own limit
	maxSections    = 1 << 18   // section headers
	maxRead        = 256 << 20 // bytes of one section or table
	maxZero        = 64 << 20  // bytes of .bss in one ReadVaddr
	maxInterp      = 4096      // bytes of PT_INTERP: PATH_MAX
	maxNotes       = 1 << 20   // bytes of one note segment or section
	maxName        = 16 << 10  // bytes of a name; longer ones are cut
)

var le = binary.LittleEndian

// A File is an open ELF file. Its methods may be called from several goroutines.
// Slices that they return are shared: callers must not write to them.
type File struct {
	Name    string // as given to Open or NewFile
	Size    int64  // bytes
	Class   int    // 32 or 64
	Machine elf.Machine
	Type    elf.Type
	OSABI   elf.OSABI
	Entry   uint64 // vaddr
	BuildID string // NT_GNU_BUILD_ID in hex, or empty
	Interp  string // PT_INTERP, or empty

	Segments []Segment
	Sections []Section
	// SectionsErr says why Sections is empty although the header names a
	// section header table. The loader needs none, so Open does not fail.
	SectionsErr error

	r      io.ReaderAt
	closer io.Closer
	head   []byte    // the first bytes of the file, so that Open reads them once
	loads  []Segment // PT_LOAD, with the file's order
	chunks chunkCache

	mu       sync.Mutex
	contents map[*Section][]byte

	dynamic    func() (*Dynamic, error)
	versions   func() (versionTable, error)
	dynsyms    func() ([]Symbol, error)
	symbols    func() ([]Symbol, error)
	relocs     func() ([]Reloc, error)
	goTable    func() (*GoTable, error)
	symbolizer func() (*Symbolizer, error)
}

// A Segment is a program header.
type Segment struct {
	Type   elf.ProgType
	Flags  elf.ProgFlag
	Offset uint64 // in the file
	Vaddr  uint64
	Filesz uint64 // bytes in the file
	Memsz  uint64 // bytes in memory; those past Filesz are zero
	Align  uint64
}

// A Section is a section header. Size is in bytes, in the file unless Type is
// SHT_NOBITS.
type Section struct {
	Name    string
	Type    elf.SectionType
	Flags   elf.SectionFlag
	Addr    uint64
	Offset  uint64
	Size    uint64
	Link    uint32
	Info    uint32
	Align   uint64
	Entsize uint64
}

// Open opens a regular file and reads its headers, build id and interpreter; all
// else is read when it is asked for.
func Open(path string) (*File, error) {
	// O_NONBLOCK: a FIFO in place of the file must not hang us.
	fd, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := fd.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file: %w", path, ErrNotELF)
	}
	var f *File
	if err == nil {
		f, err = NewFile(fd, info.Size(), path)
	}
	if err != nil {
		fd.Close()
		return nil, err
	}
	f.closer = fd
	return f, nil
}

// Whole returns an error if the file ends before one of its segments does.
func (f *File) Whole() error {
	for _, s := range f.Segments {
		if end := s.Offset + s.Filesz; end > uint64(f.Size) || end < s.Offset {
			return fmt.Errorf("%s: truncated ELF file: a segment ends at byte %d, the file at %d", f.Name, end, f.Size)
		}
	}
	return nil
}

// NewFile reads the headers of an ELF file of the given size in bytes. The name
// is for messages only. Close does not close r.
func NewFile(r io.ReaderAt, size int64, name string) (*File, error) {
	f := &File{Name: name, Size: size, r: r}
	h, err := f.readHeader()
	if err != nil {
		return nil, err
	}
	if err := f.readSegments(h); err != nil {
		return nil, err
	}
	f.SectionsErr = f.readSections(h)
	if f.SectionsErr != nil && !isFormat(f.SectionsErr) {
		return nil, f.SectionsErr
	}
	if err := f.readInterp(); err != nil {
		return nil, err
	}
	if f.BuildID, err = f.readBuildID(); err != nil {
		return nil, err
	}
	f.head = nil
	f.dynamic = sync.OnceValues(f.readDynamic)
	f.versions = sync.OnceValues(f.readVersions)
	f.dynsyms = sync.OnceValues(f.readDynamicSymbols)
	f.symbols = sync.OnceValues(f.readSymbols)
	f.relocs = sync.OnceValues(f.readRelocations)
	f.goTable = sync.OnceValues(f.readGoTable)
	f.symbolizer = sync.OnceValues(f.newSymbolizer)
	return f, nil
}

// Close closes the file if Open opened it. What was read before stays valid.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

func isFormat(err error) bool {
	var fe *FormatError
	return errors.As(err, &fe)
}

// header is what the ELF header says about the two tables.
type header struct {
	phoff, shoff       uint64
	phentsize, phnum   int
	shentsize, shstrnd int
	shnum              uint64
}

func (f *File) readHeader() (*header, error) {
	f.head = make([]byte, min(max(f.Size, 0), 4096))
	if err := f.pread(f.head, 0); err != nil {
		return nil, err
	}
	b := f.head
	if len(b) < 4 || string(b[:4]) != elf.ELFMAG {
		return nil, fmt.Errorf("%s: %w", f.Name, ErrNotELF)
	}
	if len(b) < 52 {
		return nil, f.malformed(uint64(len(b)), "the file ends in the ELF header")
	}
	switch elf.Class(b[elf.EI_CLASS]) {
	case elf.ELFCLASS32:
		f.Class = 32
	case elf.ELFCLASS64:
		f.Class = 64
	default:
		return nil, f.malformed(elf.EI_CLASS, "unknown class %d", b[elf.EI_CLASS])
	}
	switch elf.Data(b[elf.EI_DATA]) {
	case elf.ELFDATA2LSB:
	case elf.ELFDATA2MSB:
		return nil, &UnsupportedError{f.Name, "big-endian files"}
	default:
		return nil, f.malformed(elf.EI_DATA, "unknown byte order %d", b[elf.EI_DATA])
	}
	f.OSABI = elf.OSABI(b[elf.EI_OSABI])
	f.Type = elf.Type(le.Uint16(b[16:]))
	f.Machine = elf.Machine(le.Uint16(b[18:]))
	if f.Class == 32 {
		f.Entry = uint64(le.Uint32(b[24:]))
		return tableHeader(uint64(le.Uint32(b[28:])), uint64(le.Uint32(b[32:])), b[40:]), nil
	}
	if len(b) < 64 {
		return nil, f.malformed(uint64(len(b)), "the file ends in the ELF header")
	}
	f.Entry = le.Uint64(b[24:])
	return tableHeader(le.Uint64(b[32:]), le.Uint64(b[40:]), b[52:]), nil
}

// tableHeader decodes the end of the ELF header, the same in both classes, from
// e_ehsize on.
func tableHeader(phoff, shoff uint64, b []byte) *header {
	return &header{
		phoff: phoff, shoff: shoff,
		phentsize: int(le.Uint16(b[2:])), phnum: int(le.Uint16(b[4:])),
		shentsize: int(le.Uint16(b[6:])), shnum: uint64(le.Uint16(b[8:])),
		shstrnd: int(le.Uint16(b[10:])),
	}
}

func (f *File) readSegments(h *header) error {
	if h.phnum == 0 || h.phoff == 0 {
		return nil
	}
	entsize := 56
	if f.Class == 32 {
		entsize = 32
	}
	if h.phentsize != entsize {
		return f.malformed(h.phoff, "program headers of %d bytes, want %d", h.phentsize, entsize)
	}
	n := uint64(h.phnum) * uint64(entsize)
	if n > maxHeaderTable {
		return f.malformed(h.phoff, "%d program headers, more than the kernel takes", h.phnum)
	}
	b, err := f.bytesAt(h.phoff, n, "program headers")
	if err != nil {
		return err
	}
	f.Segments = make([]Segment, h.phnum)
	for i := range f.Segments {
		s := f.segment(b[i*entsize:])
		if s.Type == elf.PT_LOAD {
			if s.Filesz > s.Memsz {
				return f.malformed(h.phoff+uint64(i*entsize), "segment %d has more bytes in the file than in memory", i)
			}
			if s.Vaddr+s.Memsz < s.Vaddr || s.Offset+s.Filesz < s.Offset {
				return f.malformed(h.phoff+uint64(i*entsize), "segment %d wraps around", i)
			}
			f.loads = append(f.loads, s)
		}
		f.Segments[i] = s
	}
	return nil
}

func (f *File) segment(b []byte) Segment {
	w := func(off int) uint64 { return uint64(le.Uint32(b[off:])) }
	if f.Class == 32 {
		return Segment{
			Type: elf.ProgType(w(0)), Offset: w(4), Vaddr: w(8),
			Filesz: w(16), Memsz: w(20), Flags: elf.ProgFlag(w(24)), Align: w(28),
		}
	}
	return Segment{
		Type: elf.ProgType(w(0)), Flags: elf.ProgFlag(w(4)),
		Offset: le.Uint64(b[8:]), Vaddr: le.Uint64(b[16:]),
		Filesz: le.Uint64(b[32:]), Memsz: le.Uint64(b[40:]), Align: le.Uint64(b[48:]),
	}
}

// readSections reads the section headers. On an error Sections stays empty.
func (f *File) readSections(h *header) error {
	if h.shoff == 0 {
		return nil
	}
	entsize := 64
	if f.Class == 32 {
		entsize = 40
	}
	if h.shentsize != entsize {
		return f.malformed(h.shoff, "section headers of %d bytes, want %d", h.shentsize, entsize)
	}
	shnum, strndx := h.shnum, uint64(h.shstrnd)
	if shnum == 0 || strndx == uint64(elf.SHN_XINDEX) {
		// Too many for the ELF header: the first section header holds the numbers.
		b, err := f.bytesAt(h.shoff, uint64(entsize), "first section header")
		if err != nil {
			return err
		}
		first := f.section(b)
		if shnum == 0 {
			shnum = first.Size
		}
		if strndx == uint64(elf.SHN_XINDEX) {
			strndx = uint64(first.Link)
		}
	}
	if shnum == 0 {
		return nil
	}
	if shnum > maxSections {
		return f.malformed(h.shoff, "%d sections", shnum)
	}
	b, err := f.bytesAt(h.shoff, shnum*uint64(entsize), "section headers")
	if err != nil {
		return err
	}
	sections := make([]Section, shnum)
	names := make([]uint32, shnum)
	for i := range sections {
		h := b[i*entsize:]
		names[i], sections[i] = le.Uint32(h), f.section(h)
	}
	if err := f.nameSections(sections, names, strndx); err != nil {
		return err
	}
	f.Sections = sections
	return nil
}

func (f *File) section(b []byte) Section {
	w := func(off int) uint64 { return uint64(le.Uint32(b[off:])) }
	if f.Class == 32 {
		return Section{
			Type: elf.SectionType(w(4)), Flags: elf.SectionFlag(w(8)),
			Addr: w(12), Offset: w(16), Size: w(20),
			Link: uint32(w(24)), Info: uint32(w(28)), Align: w(32), Entsize: w(36),
		}
	}
	return Section{
		Type: elf.SectionType(w(4)), Flags: elf.SectionFlag(le.Uint64(b[8:])),
		Addr: le.Uint64(b[16:]), Offset: le.Uint64(b[24:]), Size: le.Uint64(b[32:]),
		Link: uint32(w(40)), Info: uint32(w(44)), Align: le.Uint64(b[48:]), Entsize: le.Uint64(b[56:]),
	}
}

func (f *File) nameSections(sections []Section, names []uint32, strndx uint64) error {
	if strndx == uint64(elf.SHN_UNDEF) {
		return nil
	}
	if strndx >= uint64(len(sections)) {
		return f.malformed(0, "section names in section %d of %d", strndx, len(sections))
	}
	t := &sections[strndx]
	if t.Type == elf.SHT_NOBITS {
		return f.malformed(t.Offset, "section names in a section without bytes")
	}
	b, err := f.bytesAt(t.Offset, t.Size, "section names")
	if err != nil {
		return err
	}
	strings := string(b)
	for i := range sections {
		name, ok := cstring(strings, uint64(names[i]))
		if !ok {
			return f.malformed(t.Offset+uint64(names[i]), "the name of section %d is not in the string table", i)
		}
		sections[i].Name = name
	}
	return nil
}

func (f *File) readInterp() error {
	for _, s := range f.Segments {
		if s.Type != elf.PT_INTERP {
			continue
		}
		if s.Filesz > maxInterp {
			return f.malformed(s.Offset, "an interpreter path of %d bytes", s.Filesz)
		}
		b, err := f.bytesAt(s.Offset, s.Filesz, "interpreter path")
		if err != nil {
			return err
		}
		f.Interp, _ = cstring(string(b)+"\x00", 0)
		return nil // the kernel takes the first one
	}
	return nil
}

// Section returns the first section of that name, or nil.
func (f *File) Section(name string) *Section {
	for i := range f.Sections {
		if f.Sections[i].Name == name {
			return &f.Sections[i]
		}
	}
	return nil
}

// sectionOfType returns the first section of that type, or nil.
func (f *File) sectionOfType(t elf.SectionType) *Section {
	for i := range f.Sections {
		if f.Sections[i].Type == t {
			return &f.Sections[i]
		}
	}
	return nil
}
