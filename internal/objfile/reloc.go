package objfile

import (
	"cmp"
	"debug/elf"
	"math/bits"
	"slices"
	"sort"
)

// DT_RELR and friends, which debug/elf does not name.
const (
	dtRELRSZ elf.DynTag = 35
	dtRELR   elf.DynTag = 36
)

// maxRelocs bounds what the bitmaps of RELR may expand to: 192 MiB.
const maxRelocs = 8 << 20

// A Reloc is a dynamic relocation.
type Reloc struct {
	Offset uint64 // vaddr of the place
	Type   uint32 // elf.R_X86_64 or elf.R_AARCH64, after Machine
	Sym    uint32 // index into DynamicSymbols; 0 for none
	Addend int64  // for REL and RELR, what the file holds at the place
}

// Relocations returns the relocations that the dynamic loader applies, from
// DT_RELA, DT_REL, DT_RELR and DT_JMPREL, sorted by Offset. In a static executable,
// which has no PT_DYNAMIC, they are those that its start-up code applies to itself
// (IRELATIVE, in loaded relocation sections).
func (f *File) Relocations() ([]Reloc, error) { return f.relocs() }

func (f *File) readRelocations() ([]Reloc, error) {
	if err := f.need64("relocations"); err != nil {
		return nil, err
	}
	d, err := f.Dynamic()
	if err != nil {
		return nil, err
	}
	tables := d.relocTables()
	if d.symtab == 0 && len(tables) == 0 && f.Type == elf.ET_EXEC {
		tables = f.relocSections()
	}
	var relocs []Reloc
	for _, t := range tables {
		if relocs, err = f.appendTable(relocs, t); err != nil {
			return nil, err
		}
	}
	byOffset := func(a, b Reloc) int { return cmp.Compare(a.Offset, b.Offset) }
	if !slices.IsSortedFunc(relocs, byOffset) {
		slices.SortStableFunc(relocs, byOffset)
	}
	return relocs, nil
}

// A relocTable is a table of relocations in memory.
type relocTable struct {
	Span
	kind elf.DynTag // DT_RELA, DT_REL or dtRELR
}

func (d *Dynamic) relocTables() []relocTable {
	tables := []relocTable{{d.rela, elf.DT_RELA}, {d.rel, elf.DT_REL}, {d.relr, dtRELR}}
	// DT_JMPREL may be part of the table before it.
	if !d.rela.contains(d.jmprel) && !d.rel.contains(d.jmprel) {
		kind := elf.DT_RELA
		if d.jmprelType == elf.DT_REL {
			kind = elf.DT_REL
		}
		tables = append(tables, relocTable{d.jmprel, kind})
	}
	return slices.DeleteFunc(tables, func(t relocTable) bool { return t.Addr == 0 || t.Size == 0 })
}

func (s Span) contains(t Span) bool {
	return t.Addr >= s.Addr && t.Size <= s.Size && t.Addr-s.Addr <= s.Size-t.Size
}

func (f *File) relocSections() []relocTable {
	var tables []relocTable
	for i := range f.Sections {
		s := &f.Sections[i]
		if s.Flags&elf.SHF_ALLOC == 0 || s.Size == 0 {
			continue
		}
		switch s.Type {
		case elf.SHT_RELA:
			tables = append(tables, relocTable{Span{s.Addr, s.Size}, elf.DT_RELA})
		case elf.SHT_REL:
			tables = append(tables, relocTable{Span{s.Addr, s.Size}, elf.DT_REL})
		}
	}
	return tables
}

func (f *File) appendTable(relocs []Reloc, t relocTable) ([]Reloc, error) {
	b, err := f.table(t.Addr, t.Size, "relocations")
	if err != nil {
		return nil, err
	}
	entsize := map[elf.DynTag]int{elf.DT_RELA: 24, elf.DT_REL: 16, dtRELR: 8}[t.kind]
	if len(relocs)+len(b)/entsize > maxRelocs {
		return nil, f.malformed(t.Addr, "more than %d relocations", maxRelocs)
	}
	switch t.kind {
	case elf.DT_RELA:
		relocs = slices.Grow(relocs, len(b)/entsize)
		for ; len(b) >= entsize; b = b[entsize:] {
			relocs = append(relocs, Reloc{le.Uint64(b), le.Uint32(b[8:]), le.Uint32(b[12:]), int64(le.Uint64(b[16:]))})
		}
	case elf.DT_REL:
		for ; len(b) >= entsize; b = b[entsize:] {
			r := Reloc{Offset: le.Uint64(b), Type: le.Uint32(b[8:]), Sym: le.Uint32(b[12:])}
			if r.Addend, err = f.addendAt(r.Offset); err != nil {
				return nil, err
			}
			relocs = append(relocs, r)
		}
	case dtRELR:
		return f.appendRELR(relocs, b, t.Addr)
	}
	return relocs, nil
}

// appendRELR expands the compact table of relative relocations: an even entry is
// the address of a place, an odd one a bitmap of which of the 63 words that follow
// the last place are places too.
func (f *File) appendRELR(relocs []Reloc, b []byte, addr uint64) ([]Reloc, error) {
	typ, ok := f.relativeType()
	if !ok {
		return nil, &UnsupportedError{f.Name, "RELR relocations of " + f.Machine.String()}
	}
	add := func(place uint64) error {
		addend, err := f.addendAt(place)
		relocs = append(relocs, Reloc{Offset: place, Type: typ, Addend: addend})
		return err
	}
	n := countRELR(b)
	if len(relocs)+n > maxRelocs {
		return nil, f.malformed(addr, "more than %d relocations", maxRelocs)
	}
	relocs = slices.Grow(relocs, n)
	var next uint64
	for ; len(b) >= 8; b = b[8:] {
		e := le.Uint64(b)
		if e&1 == 0 {
			if err := add(e); err != nil {
				return nil, err
			}
			next = e + 8
			continue
		}
		for m := e >> 1; m != 0; m &= m - 1 {
			if err := add(next + 8*uint64(bits.TrailingZeros64(m))); err != nil {
				return nil, err
			}
		}
		next += 63 * 8
	}
	return relocs, nil
}

func countRELR(b []byte) int {
	n := 0
	for ; len(b) >= 8; b = b[8:] {
		if e := le.Uint64(b); e&1 == 0 {
			n++
		} else {
			n += bits.OnesCount64(e) - 1
		}
	}
	return n
}

func (f *File) addendAt(place uint64) (int64, error) {
	b, err := f.ReadVaddr(place, 8)
	if err != nil {
		return 0, err
	}
	return int64(le.Uint64(b)), nil
}

func (f *File) relativeType() (uint32, bool) {
	switch f.Machine {
	case elf.EM_X86_64:
		return uint32(elf.R_X86_64_RELATIVE), true
	case elf.EM_AARCH64:
		return uint32(elf.R_AARCH64_RELATIVE), true
	}
	return 0, false
}

// isSymbolic reports whether a relocation stores the address of its symbol, plus
// its addend, as a pointer.
func (f *File) isSymbolic(typ uint32) bool {
	switch f.Machine {
	case elf.EM_X86_64:
		switch elf.R_X86_64(typ) {
		case elf.R_X86_64_64, elf.R_X86_64_GLOB_DAT, elf.R_X86_64_JMP_SLOT:
			return true
		}
	case elf.EM_AARCH64:
		switch elf.R_AARCH64(typ) {
		case elf.R_AARCH64_ABS64, elf.R_AARCH64_GLOB_DAT, elf.R_AARCH64_JUMP_SLOT:
			return true
		}
	}
	return false
}

// Pointers returns the 8-byte words of a range as they stand after relocation with
// a load bias of zero: vaddrs of this file. A word that the loader takes from
// another file, or from a resolver function, is 0.
func (f *File) Pointers(s Span) ([]uint64, error) {
	if s.Size < 8 {
		return nil, nil
	}
	b, err := f.ReadVaddr(s.Addr, s.Size&^7)
	if err != nil {
		return nil, err
	}
	relocs, err := f.Relocations()
	if err != nil {
		return nil, err
	}
	words := make([]uint64, len(b)/8)
	for i := range words {
		words[i] = le.Uint64(b[8*i:])
	}
	for _, r := range relocs[searchRelocs(relocs, s.Addr):] {
		at := r.Offset - s.Addr
		if at >= uint64(len(b)) {
			break
		}
		if at%8 == 0 {
			if words[at/8], err = f.relocated(r); err != nil {
				return nil, err
			}
		}
	}
	return words, nil
}

// searchRelocs returns the index of the first relocation at or after a vaddr.
func searchRelocs(relocs []Reloc, vaddr uint64) int {
	return sort.Search(len(relocs), func(i int) bool { return relocs[i].Offset >= vaddr })
}

// relocated returns the pointer that a relocation stores, or 0 if it is not known
// from this file alone.
func (f *File) relocated(r Reloc) (uint64, error) {
	if typ, ok := f.relativeType(); ok && r.Type == typ {
		return uint64(r.Addend), nil
	}
	if !f.isSymbolic(r.Type) {
		return 0, nil
	}
	syms, err := f.DynamicSymbols()
	if uint64(r.Sym) >= uint64(len(syms)) {
		if err == nil {
			err = f.malformed(r.Offset, "a relocation names symbol %d of %d", r.Sym, len(syms))
		}
		return 0, err
	}
	if s := &syms[r.Sym]; s.Shndx != elf.SHN_UNDEF {
		return s.Value + uint64(r.Addend), nil
	}
	return 0, nil
}
