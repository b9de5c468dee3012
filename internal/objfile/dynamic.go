package objfile

import (
	"bytes"
	"debug/elf"
)

// maxDynamic bounds the entries of the dynamic section; real ones have 20 to 50,
// and one for each needed library.
const maxDynamic = 1 << 16

// A Span is a range of virtual addresses. Size is in bytes.
type Span struct{ Addr, Size uint64 }

// Dynamic is what PT_DYNAMIC says. Strings and addresses are zero where an entry
// is absent; where one is repeated the last wins, as in ld.so(8).
type Dynamic struct {
	Needed    []string
	Soname    string
	Rpath     string // DT_RPATH, a colon-separated list
	Runpath   string // DT_RUNPATH, a colon-separated list
	Filter    string // DT_FILTER: a library that stands in for this one
	Auxiliary string // DT_AUXILIARY: one that is asked before this one
	Audit     string // DT_AUDIT, a colon-separated list
	DepAudit  string // DT_DEPAUDIT, a colon-separated list

	Init, Fini   uint64 // vaddr of a function
	InitArray    Span   // tables of function pointers: see File.Pointers
	FiniArray    Span
	PreinitArray Span
	PLTGOT       uint64 // vaddr of .got.plt

	Flags  elf.DynFlag
	Flags1 elf.DynFlag1

	strings Span // .dynstr
	symtab  uint64
	hash    uint64
	gnuHash uint64

	versym            uint64
	verdef, verneed   uint64
	verdefN, verneedN uint64
	rela, rel, relr   Span
	jmprel            Span
	jmprelType        elf.DynTag
}

// Dynamic returns the dynamic section, found through PT_DYNAMIC: no section
// headers are needed. A file that has none gives an empty Dynamic.
func (f *File) Dynamic() (*Dynamic, error) { return f.dynamic() }

func (f *File) readDynamic() (*Dynamic, error) {
	d := new(Dynamic)
	var seg *Segment
	for i := range f.Segments {
		// Separate debug files keep the header with no bytes behind it.
		if s := &f.Segments[i]; s.Type == elf.PT_DYNAMIC && s.Filesz != 0 {
			seg = s
		}
	}
	if seg == nil {
		return d, nil
	}
	if err := f.need64("dynamic section"); err != nil {
		return nil, err
	}
	// ld.so reads from p_vaddr to DT_NULL and looks at neither size nor offset.
	size := min(f.tableLimit(seg.Vaddr), maxDynamic*16) &^ 15
	b, err := f.table(seg.Vaddr, size, "dynamic section")
	if err != nil {
		return nil, err
	}
	if size == 0 {
		return nil, f.malformed(seg.Vaddr, "the dynamic section is in no segment")
	}
	values := make(map[elf.DynTag]uint64)
	var needed []uint64
	for ; len(b) > 0; b = b[16:] {
		tag, v := elf.DynTag(le.Uint64(b)), le.Uint64(b[8:])
		if tag == elf.DT_NULL {
			break
		}
		if tag == elf.DT_NEEDED {
			needed = append(needed, v)
		}
		values[tag] = v
	}
	d.setValues(values)
	return d, f.readDynamicNames(d, values, needed)
}

func (d *Dynamic) setValues(v map[elf.DynTag]uint64) {
	span := func(addr, size elf.DynTag) Span { return Span{v[addr], v[size]} }
	d.Init, d.Fini = v[elf.DT_INIT], v[elf.DT_FINI]
	d.InitArray = span(elf.DT_INIT_ARRAY, elf.DT_INIT_ARRAYSZ)
	d.FiniArray = span(elf.DT_FINI_ARRAY, elf.DT_FINI_ARRAYSZ)
	d.PreinitArray = span(elf.DT_PREINIT_ARRAY, elf.DT_PREINIT_ARRAYSZ)
	d.PLTGOT = v[elf.DT_PLTGOT]
	d.Flags, d.Flags1 = elf.DynFlag(v[elf.DT_FLAGS]), elf.DynFlag1(v[elf.DT_FLAGS_1])
	d.strings = span(elf.DT_STRTAB, elf.DT_STRSZ)
	d.symtab, d.hash, d.gnuHash = v[elf.DT_SYMTAB], v[elf.DT_HASH], v[elf.DT_GNU_HASH]
	d.versym = v[elf.DT_VERSYM]
	d.verdef, d.verdefN = v[elf.DT_VERDEF], v[elf.DT_VERDEFNUM]
	d.verneed, d.verneedN = v[elf.DT_VERNEED], v[elf.DT_VERNEEDNUM]
	d.rela = span(elf.DT_RELA, elf.DT_RELASZ)
	d.rel = span(elf.DT_REL, elf.DT_RELSZ)
	d.relr = span(dtRELR, dtRELRSZ)
	d.jmprel, d.jmprelType = span(elf.DT_JMPREL, elf.DT_PLTRELSZ), elf.DynTag(v[elf.DT_PLTREL])
}

func (f *File) readDynamicNames(d *Dynamic, v map[elf.DynTag]uint64, needed []uint64) error {
	// Only to see that all of it is there: a library's names may be megabytes.
	if _, err := f.tableOffset(d.strings.Addr, d.strings.Size, "dynamic string table"); err != nil {
		return err
	}
	for _, s := range []struct {
		tag elf.DynTag
		to  *string
	}{
		{elf.DT_SONAME, &d.Soname}, {elf.DT_RPATH, &d.Rpath}, {elf.DT_RUNPATH, &d.Runpath},
		{elf.DT_FILTER, &d.Filter}, {elf.DT_AUXILIARY, &d.Auxiliary},
		{elf.DT_AUDIT, &d.Audit}, {elf.DT_DEPAUDIT, &d.DepAudit},
	} {
		off, present := v[s.tag]
		if !present {
			continue
		}
		name, err := f.dynamicString(d, off, s.tag.String())
		if err != nil {
			return err
		}
		*s.to = name
	}
	d.Needed = make([]string, len(needed))
	for i, off := range needed {
		name, err := f.dynamicString(d, off, "DT_NEEDED")
		if err != nil {
			return err
		}
		d.Needed[i] = name
	}
	return nil
}

// dynamicString reads one string of .dynstr; what says whose it is.
func (f *File) dynamicString(d *Dynamic, off uint64, what string) (string, error) {
	if off < d.strings.Size {
		b, err := f.table(d.strings.Addr+off, min(maxName, d.strings.Size-off), what)
		if err != nil {
			return "", err
		}
		if i := bytes.IndexByte(b, 0); i >= 0 {
			return string(b[:i]), nil
		}
		if len(b) == maxName {
			return string(b), nil
		}
	}
	return "", f.malformed(d.strings.Addr+off, "%s is not in the dynamic string table", what)
}
