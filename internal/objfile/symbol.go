package objfile

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"slices"

	"github.com/therootcompany/xz"
)

const (
	symSize    = 24      // bytes of an Elf64_Sym
	maxSymbols = 4 << 20 // of one table

	maxDebugdata = 128 << 20 // bytes of .gnu_debugdata when inflated
)

// A SymbolSource is the table that a symbol comes from.
type SymbolSource uint8

const (
	SourceSymtab    SymbolSource = iota // .symtab
	SourceDynsym                        // .dynsym
	SourceDebugdata                     // .symtab of the file in .gnu_debugdata (MiniDebugInfo)
)

func (s SymbolSource) String() string {
	return [...]string{".symtab", ".dynsym", ".gnu_debugdata"}[s]
}

// A Symbol is an entry of a symbol table.
type Symbol struct {
	Name    string
	Version string // of .dynsym: the version defined, or needed if Shndx is SHN_UNDEF
	Value   uint64 // vaddr; in a relocatable file the offset in its section
	Size    uint64 // bytes; 0 if unknown
	Type    elf.SymType
	Bind    elf.SymBind
	Shndx   elf.SectionIndex
	Vis     elf.SymVis
	Source  SymbolSource
	// VersionDefault says that an unversioned reference binds to this definition
	// (name@@version).
	VersionDefault bool
}

// Symbols returns the symbols of .symtab, .dynsym and .gnu_debugdata, one table
// after the other, without the empty first entries; most of .dynsym is in .symtab
// too. If a table cannot be read, the rest is returned together with an error.
func (f *File) Symbols() ([]Symbol, error) { return f.symbols() }

// DynamicSymbols returns .dynsym, found through PT_DYNAMIC and index-aligned with
// it: Reloc.Sym is an index into the result, and entry 0 is empty. If the versions
// or a name cannot be read, the symbols are returned together with an error.
func (f *File) DynamicSymbols() ([]Symbol, error) { return f.dynsyms() }

func (f *File) readSymbols() ([]Symbol, error) {
	if err := f.need64("symbols"); err != nil {
		return nil, err
	}
	symtab, symErr := f.readSymtab(SourceSymtab)
	dynsym, dynErr := f.DynamicSymbols()
	debug, debugErr := f.readDebugdata()
	symtab, dynsym, debug = skipFirst(symtab), skipFirst(dynsym), skipFirst(debug)
	all := dynsym
	if len(symtab)+len(debug) > 0 {
		all = slices.Concat(symtab, dynsym, debug)
	}
	return all, errors.Join(symErr, dynErr, debugErr)
}

func skipFirst(s []Symbol) []Symbol {
	if len(s) == 0 {
		return nil
	}
	return s[1:]
}

func (f *File) readSymtab(source SymbolSource) ([]Symbol, error) {
	s := f.sectionOfType(elf.SHT_SYMTAB)
	if s == nil {
		return nil, nil
	}
	if uint64(s.Link) >= uint64(len(f.Sections)) {
		return nil, f.malformed(s.Offset, "the string table of %s is section %d of %d", s.Name, s.Link, len(f.Sections))
	}
	// Not through Bytes: both are needed only here, and the names as a string.
	b, err := f.bytesAt(s.Offset, s.Size, "symbol table")
	if err != nil {
		return nil, err
	}
	t := &f.Sections[s.Link]
	if t.Type != elf.SHT_STRTAB {
		return nil, f.malformed(t.Offset, "the string table of %s is of type %v", s.Name, t.Type)
	}
	names, err := f.bytesAt(t.Offset, t.Size, "symbol names")
	if err != nil {
		return nil, err
	}
	return f.parseSymbols(b, string(names), source, s.Offset)
}

// parseSymbols decodes a symbol table at off. A name that cannot be read is left
// empty and reported.
func (f *File) parseSymbols(b []byte, names string, source SymbolSource, off uint64) ([]Symbol, error) {
	n := len(b) / symSize
	if n > maxSymbols {
		return nil, f.malformed(off, "%d symbols, more than the limit of %d", n, maxSymbols)
	}
	var badName error
	syms := make([]Symbol, n)
	for i := range syms {
		e := b[i*symSize:][:symSize]
		s := &syms[i]
		s.Source = source
		s.Type, s.Bind = elf.ST_TYPE(e[4]), elf.ST_BIND(e[4])
		s.Vis = elf.ST_VISIBILITY(e[5])
		s.Shndx = elf.SectionIndex(le.Uint16(e[6:]))
		s.Value, s.Size = le.Uint64(e[8:]), le.Uint64(e[16:])
		if nameOff := le.Uint32(e); nameOff != 0 {
			name, ok := cstring(names, uint64(nameOff))
			if !ok && badName == nil {
				badName = f.malformed(off+uint64(i*symSize), "the name of a symbol in %v is not in the string table", source)
			}
			s.Name = name
		}
	}
	return syms, badName
}

func (f *File) readDynamicSymbols() ([]Symbol, error) {
	d, err := f.Dynamic()
	if err != nil || d.symtab == 0 {
		return nil, err
	}
	n, err := f.countDynamicSymbols(d)
	if err != nil {
		return nil, err
	}
	b, err := f.table(d.symtab, n*symSize, "dynamic symbols")
	if err != nil {
		return nil, err
	}
	names, err := f.table(d.strings.Addr, d.strings.Size, "dynamic string table")
	if err != nil {
		return nil, err
	}
	syms, nameErr := f.parseSymbols(b, string(names), SourceDynsym, d.symtab)
	return syms, errors.Join(nameErr, f.addVersions(d, syms))
}

func (f *File) addVersions(d *Dynamic, syms []Symbol) error {
	if d.versym == 0 {
		return nil
	}
	versions, err := f.versions()
	if err != nil && len(versions) == 0 {
		return err
	}
	b, tableErr := f.table(d.versym, uint64(len(syms))*2, "symbol versions")
	if tableErr != nil {
		return errors.Join(err, tableErr)
	}
	for i := range syms {
		v := le.Uint16(b[2*i:])
		s := &syms[i]
		s.Version = versions.name(v)
		s.VersionDefault = s.Version != "" && s.Shndx != elf.SHN_UNDEF && v&versionHidden == 0
	}
	return err
}

// countDynamicSymbols finds the length of .dynsym, which PT_DYNAMIC does not give:
// it is that of the hash table's chains. The GNU hash table leaves out the symbols
// before its first; where it holds none, the section header and else the
// relocations tell.
func (f *File) countDynamicSymbols(d *Dynamic) (uint64, error) {
	limit := f.tableLimit(d.symtab) / symSize
	if limit == 0 {
		return 0, f.malformed(d.symtab, "the dynamic symbols are in no segment")
	}
	var n uint64
	var err error
	switch {
	case d.hash != 0:
		var b []byte
		if b, err = f.table(d.hash, 8, "hash table"); err == nil {
			n = uint64(le.Uint32(b[4:]))
		}
	case d.gnuHash != 0:
		n, err = f.countGNUHash(d.gnuHash, limit)
	}
	if err != nil {
		return 0, err
	}
	if n == 0 {
		n = f.countUnhashed(d)
	}
	if n > limit {
		return 0, f.malformed(d.symtab, "%d dynamic symbols in a segment with room for %d", n, limit)
	}
	return n, nil
}

// countGNUHash returns one more than the highest symbol index in DT_GNU_HASH, or
// 0 if it holds no symbol.
func (f *File) countGNUHash(addr, limit uint64) (uint64, error) {
	h, err := f.table(addr, 16, "GNU hash table")
	if err != nil {
		return 0, err
	}
	nbuckets, first, bloom := uint64(le.Uint32(h)), uint64(le.Uint32(h[4:])), uint64(le.Uint32(h[8:]))
	buckets := addr + 16 + 8*bloom
	b, err := f.table(buckets, 4*nbuckets, "GNU hash buckets")
	if err != nil {
		return 0, err
	}
	var last uint64
	for ; len(b) > 0; b = b[4:] {
		last = max(last, uint64(le.Uint32(b)))
	}
	if last == 0 {
		return 0, nil
	}
	if last < first {
		return 0, f.malformed(buckets, "a GNU hash bucket is below the first hashed symbol")
	}
	chain := buckets + 4*nbuckets - 4*first
	for ; last < limit; last++ {
		e, err := f.table(chain+4*last, 4, "GNU hash chain")
		if err != nil {
			return 0, err
		}
		if e[0]&1 != 0 { // the chain's end
			return last + 1, nil
		}
	}
	return 0, f.malformed(chain, "a GNU hash chain has no end")
}

func (f *File) countUnhashed(d *Dynamic) uint64 {
	if s := f.sectionOfType(elf.SHT_DYNSYM); s != nil && s.Addr == d.symtab {
		return s.Size / symSize
	}
	var n uint64
	relocs, _ := f.Relocations() // their error is reported where they are used
	for i := range relocs {
		if relocs[i].Sym != 0 {
			n = max(n, uint64(relocs[i].Sym)+1)
		}
	}
	return n
}

// readDebugdata reads the symbols of the xz-compressed ELF file that Fedora and
// others keep in .gnu_debugdata for the functions that .dynsym lacks.
func (f *File) readDebugdata() ([]Symbol, error) {
	s := f.Section(".gnu_debugdata")
	if s == nil || s.Type == elf.SHT_NOBITS {
		return nil, nil
	}
	b, err := f.bytesAt(s.Offset, s.Size, s.Name)
	if err != nil {
		return nil, err
	}
	z, err := xz.NewReader(bytes.NewReader(b), xz.DefaultDictMax)
	if err != nil {
		return nil, f.malformed(s.Offset, "%s: %v", s.Name, err)
	}
	inflated, err := readBounded(z, maxDebugdata)
	if err != nil {
		return nil, f.malformed(s.Offset, "%s: %v", s.Name, err)
	}
	mini, err := NewFile(bytes.NewReader(inflated), int64(len(inflated)), f.Name+" .gnu_debugdata")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	if err := mini.need64("symbols"); err != nil {
		return nil, err
	}
	return mini.readSymtab(SourceDebugdata)
}
