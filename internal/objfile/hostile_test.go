package objfile

import (
	"bytes"
	"compress/zlib"
	"debug/elf"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"
)

// exercise calls every accessor, and looks inside what they return. It returns all
// their errors.
func exercise(f *File) []error {
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	note(f.SectionsErr)
	for i := range f.Sections {
		_, err := f.Bytes(&f.Sections[i])
		note(err)
	}
	for _, s := range f.Segments {
		_, err := f.ReadVaddr(s.Vaddr, min(s.Memsz, 1<<16))
		note(err)
		if off, ok := f.VaddrToOffset(s.Vaddr); ok {
			f.OffsetToVaddr(off)
		}
	}
	d, err := f.Dynamic()
	note(err)
	if d != nil {
		for _, s := range []Span{d.InitArray, d.FiniArray, d.PreinitArray} {
			_, err := f.Pointers(s)
			note(err)
		}
	}
	_, err = f.DynamicSymbols()
	note(err)
	_, err = f.Relocations()
	note(err)
	_, err = f.Symbols()
	note(err)
	if t, err := f.GoTable(); err == nil {
		note(exerciseGoTable(t))
	} else if !errors.Is(err, ErrNoGoTable) {
		note(err)
	}
	z, err := f.Symbolizer()
	note(err)
	if z != nil {
		note(exerciseSymbolizer(z))
	}
	note(f.Close())
	return errs
}

func exerciseGoTable(t *GoTable) error {
	var deltas []SPDelta
	var first error
	for i := range t.Funcs {
		fn := &t.Funcs[i]
		if t.Find(fn.Entry) != fn || t.Find(fn.End-1) != fn {
			return errors.New("broken: a Go function does not hold its own addresses")
		}
		var err error
		if deltas, err = t.AppendSPDeltas(deltas[:0], fn); err != nil && first == nil {
			first = err
		}
	}
	return first
}

func exerciseSymbolizer(z *Symbolizer) error {
	for i, fn := range z.Functions() {
		if fn.End <= fn.Start || i > 0 && fn.Start <= z.Functions()[i-1].Start {
			return errors.New("broken: functions out of order")
		}
		if got := z.Find(fn.Start); got == nil || got.Start != fn.Start {
			return errors.New("broken: a function does not hold its own start")
		}
		if i < 100 {
			z.Lookup(fn.Start)
		}
	}
	for i := 1; i < len(z.ranges); i++ {
		if z.ranges[i].start <= z.ranges[i-1].start {
			return errors.New("broken: ranges out of order")
		}
	}
	return nil
}

// checkErrors fails if an error is of no documented kind.
func checkErrors(t testing.TB, errs []error) {
	t.Helper()
	for _, err := range errs {
		if !isFormat(err) && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, ErrNotELF) {
			t.Errorf("%T: %v", err, err)
		}
	}
}

// bounded fails the test if fn takes long or allocates much.
func bounded(t testing.TB, fn func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	fn()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 600<<20 {
		t.Errorf("allocated %d MiB", n>>20)
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestTruncatedAnywhere(t *testing.T) {
	full := tiny().bytes()
	for n := range full {
		f, err := NewFile(bytes.NewReader(full[:n]), int64(n), "cut")
		if err != nil {
			if n < 4 != errors.Is(err, ErrNotELF) || n >= 4 && !isFormat(err) {
				t.Errorf("cut at %d: %v", n, err)
			}
			continue
		}
		errs := exercise(f)
		checkErrors(t, errs)
		if len(errs) == 0 {
			t.Errorf("cut at %d of %d: no error", n, len(full))
		}
	}
}

// TestDamagedByte sets each byte to a few values: any result will do, but no panic.
func TestDamagedByte(t *testing.T) {
	full := tiny().bytes()
	for i := range full {
		for _, v := range []byte{0, 1, 0x7f, 0x80, 0xff} {
			b := bytes.Clone(full)
			b[i] = v
			f, err := NewFile(bytes.NewReader(b), int64(len(b)), "damaged")
			if err != nil {
				checkErrors(t, []error{err})
				continue
			}
			checkErrors(t, exercise(f))
		}
	}
}

func TestHostile(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, m *image) []byte
		want string // in an error
	}{
		{"2^40 sections", func(t *testing.T, m *image) []byte {
			b := m.bytes()
			le.PutUint16(b[60:], 0) // the first section header counts
			le.PutUint64(b[le.Uint64(b[40:])+32:], 1<<40)
			return b
		}, "1099511627776 sections"},
		{"section headers past the end", func(t *testing.T, m *image) []byte {
			b := m.bytes()
			le.PutUint64(b[40:], 1<<62)
			return b
		}, "section headers"},
		{"section name past the end", func(t *testing.T, m *image) []byte {
			b := m.bytes()
			le.PutUint32(b[le.Uint64(b[40:])+64:], 1<<31)
			return b
		}, "the name of section 1"},
		{"section past the end", func(t *testing.T, m *image) []byte {
			m.section(Section{Name: "x", Type: elf.SHT_PROGBITS, Offset: 1, Size: ^uint64(0)})
			return m.bytes()
		}, "section x"},
		{"strings of the symbols nowhere", func(t *testing.T, m *image) []byte {
			m.sections[3].Link = 1 << 30
			return m.bytes()
		}, "string table of .symtab"},
		{"segment wraps around", func(t *testing.T, m *image) []byte {
			b := m.bytes()
			le.PutUint64(b[64+16:], 1<<63)
			le.PutUint64(b[64+40:], 1<<63)
			return b
		}, "wraps around"},
		{"many segments", func(t *testing.T, m *image) []byte {
			b := m.bytes()
			le.PutUint16(b[56:], 0xffff)
			return b
		}, "65535 program headers"},
		{"program header size", func(t *testing.T, m *image) []byte {
			b := m.bytes()
			le.PutUint16(b[54:], 8)
			return b
		}, "program headers of 8 bytes"},
		{"dynamic section nowhere", func(t *testing.T, m *image) []byte {
			b := m.bytes()
			le.PutUint64(b[64+56+16:], 0xdead0000)
			return b
		}, "dynamic section"},
		{"string table nowhere", patchTag(elf.DT_STRTAB, 8), "dynamic string table"},
		{"huge string table", patchTag(elf.DT_STRSZ, 1<<60), "dynamic string table"},
		{"needed name", patchTag(elf.DT_NEEDED, 1<<40), "DT_NEEDED"},
		{"soname", patchTag(elf.DT_SONAME, 1<<40), "DT_SONAME"},
		{"hash table nowhere", patchTag(elf.DT_HASH, 8), "hash table"},
		{"symbols nowhere", patchTag(elf.DT_SYMTAB, 8), "dynamic symbols"},
		{"2^32 symbols", func(t *testing.T, m *image) []byte {
			b := m.bytes()
			le.PutUint32(b[m.value(elf.DT_HASH)-base+4:], 1<<32-1)
			return b
		}, "4294967295 dynamic symbols"},
		{"version definitions in a circle", func(t *testing.T, m *image) []byte {
			// The chain only goes forward: a circle is one that leads nowhere.
			b := m.bytes()
			m.patch(t, elf.DT_VERDEFNUM, 1<<60)
			le.PutUint32(b[m.value(elf.DT_VERDEF)-base+16:], 1<<32-1)
			return b
		}, "version definition"},
		{"more versions than there are indices", func(t *testing.T, m *image) []byte {
			// Each of many records has a long chain in the same place.
			var b []byte
			const n = 100
			for i := range n {
				b = append(b, words(uint16(1), uint16(0xffff), uint32(0), uint32(16*(n-i)), uint32(16))...)
			}
			for range 1000 {
				b = append(b, words(uint32(0), uint16(0), uint16(5), uint32(0), uint32(16))...)
			}
			b = append(b, make([]byte, 16)...)
			at := m.add(b)
			out := m.bytes()
			m.patch(t, elf.DT_VERNEED, at)
			m.patch(t, elf.DT_VERNEEDNUM, n)
			return out
		}, "needed versions"},
		{"relocations past the end", patchTag(elf.DT_RELASZ, 1<<40), "relocations"},
		{"RELR to nowhere", func(t *testing.T, m *image) []byte {
			b := m.bytes()
			le.PutUint64(b[m.value(dtRELR)-base:], 1<<40)
			return b
		}, "in no segment"},
		{"RELR bomb", func(t *testing.T, m *image) []byte {
			m.memsz = 1 << 40
			table := bytes.Repeat([]byte{0xff}, 8<<20)
			le.PutUint64(table, base)
			at := m.add(table)
			out := m.bytes()
			m.patch(t, dtRELR, at)
			m.patch(t, dtRELRSZ, uint64(len(table)))
			return out
		}, "more than 8388608 relocations"},
		{"huge init array", patchTag(elf.DT_INIT_ARRAYSZ, 1<<60), "reach beyond the end of the segment"},
		{"relocation against no symbol", func(t *testing.T, m *image) []byte {
			b := m.bytes()
			le.PutUint32(b[m.value(elf.DT_JMPREL)-base+12:], 99)
			return b
		}, "symbol 99 of 4"},
		{"compressed section that is none", func(t *testing.T, m *image) []byte {
			m.section(Section{Name: ".debug_x", Type: elf.SHT_PROGBITS, Flags: elf.SHF_COMPRESSED, Offset: 64, Size: 8})
			return m.bytes()
		}, "compression header"},
		{"compressed section with a huge size", func(t *testing.T, m *image) []byte {
			b := words(uint32(elf.COMPRESS_ZLIB), uint32(0), uint64(1<<50), uint64(1))
			m.section(Section{Name: ".debug_x", Type: elf.SHT_PROGBITS, Flags: elf.SHF_COMPRESSED, Offset: m.add(b) - base, Size: uint64(len(b))})
			return m.bytes()
		}, "more than the limit"},
		{"compressed section that is too long", func(t *testing.T, m *image) []byte {
			return deflated(m, 1<<20, 1000)
		}, "inflates to more than allowed"},
		{"compressed section that is too short", func(t *testing.T, m *image) []byte {
			return deflated(m, 10, 1000)
		}, "10 bytes when inflated, its header says 1000"},
		{"compressed section that is damaged", func(t *testing.T, m *image) []byte {
			b := deflated(m, 1000, 1000)
			clear(b[m.sections[4].Offset+30:][:4])
			return b
		}, "section .debug_x: flate"},
		{"zstd", func(t *testing.T, m *image) []byte {
			b := words(uint32(elf.COMPRESS_ZSTD), uint32(0), uint64(8), uint64(1))
			m.section(Section{Name: ".debug_x", Type: elf.SHT_PROGBITS, Flags: elf.SHF_COMPRESSED, Offset: m.add(b) - base, Size: uint64(len(b))})
			return m.bytes()
		}, "COMPRESS_ZSTD not supported"},
		{"GNU hash table nowhere", gnuHash(1<<40, nil), "GNU hash table"},
		{"2^32 GNU hash buckets", gnuHash(0, words(uint32(1<<32-1), uint32(1), uint32(0), uint32(0))), "GNU hash buckets"},
		{"GNU hash bucket below the first", gnuHash(0, words(uint32(1), uint32(3), uint32(0), uint32(0), uint32(1))), "below the first"},
		{"GNU hash chain without an end", gnuHash(0, append(words(uint32(1), uint32(1), uint32(0), uint32(0), uint32(1)), make([]byte, 1<<16)...)), "has no end"},
		{".gnu_debugdata that is no xz", func(t *testing.T, m *image) []byte {
			m.section(Section{Name: ".gnu_debugdata", Type: elf.SHT_PROGBITS, Offset: 64, Size: 64})
			return m.bytes()
		}, ".gnu_debugdata"},
		{"interpreter", func(t *testing.T, m *image) []byte {
			m.interp.Size = 1 << 20
			return m.bytes()
		}, "interpreter path of 1048576 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.make(t, tiny())
			bounded(t, func() {
				f, err := NewFile(bytes.NewReader(b), int64(len(b)), "hostile.so")
				errs := []error{err}
				if err == nil {
					errs = exercise(f)
				}
				checkErrors(t, errs)
				if !strings.Contains(errors.Join(errs...).Error(), c.want) {
					t.Errorf("no %q in:\n%v", c.want, errors.Join(errs...))
				}
			})
		})
	}
}

// deflated adds a compressed section of n bytes whose header says size.
func deflated(m *image, n int, size uint64) []byte {
	var z bytes.Buffer
	z.Write(words(uint32(elf.COMPRESS_ZLIB), uint32(0), size, uint64(1)))
	w := zlib.NewWriter(&z)
	w.Write(make([]byte, n))
	w.Close()
	m.section(Section{Name: ".debug_x", Type: elf.SHT_PROGBITS, Flags: elf.SHF_COMPRESSED, Offset: m.add(z.Bytes()) - base, Size: uint64(z.Len())})
	return m.bytes()
}

// gnuHash replaces the hash table by a GNU hash table, at a vaddr or with contents.
func gnuHash(at uint64, table []byte) func(*testing.T, *image) []byte {
	return func(t *testing.T, m *image) []byte {
		if table != nil {
			at = m.add(table)
		}
		m.tag(elf.DT_GNU_HASH, at)
		b := m.bytes()
		m.patch(t, elf.DT_HASH, 0)
		return b
	}
}

func patchTag(tag elf.DynTag, value uint64) func(*testing.T, *image) []byte {
	return func(t *testing.T, m *image) []byte {
		b := m.bytes()
		m.patch(t, tag, value)
		return b
	}
}

// TestSectionHeadersBroken: the loader does not read them, so neither must the rest fail.
func TestSectionHeadersBroken(t *testing.T) {
	b := tiny().bytes()
	le.PutUint64(b[40:], 1<<62)
	f := open(t, b)
	if !isFormat(f.SectionsErr) || f.Sections != nil {
		t.Errorf("%v, %d sections", f.SectionsErr, len(f.Sections))
	}
	if d, err := f.Dynamic(); err != nil || d.Soname != "tiny.so" {
		t.Errorf("%+v, %v", d, err)
	}
	if syms, err := f.Symbols(); err != nil || len(syms) != 3 {
		t.Errorf("%v, %v", syms, err)
	}
}

// TestPartialSymbols: what can be read is returned beside the error.
func TestPartialSymbols(t *testing.T) {
	m := tiny()
	b := m.bytes()
	m.patch(t, elf.DT_VERNEED, 8)
	f := open(t, b)
	syms, err := f.Symbols()
	if !isFormat(err) || len(syms) != 4 {
		t.Fatalf("%v, %v", syms, err)
	}
	z, err := f.Symbolizer()
	if !isFormat(err) {
		t.Error(err)
	}
	if name, off, ok := z.Lookup(m.text + 0x41); name != "api" || off != 1 || !ok {
		t.Error(name, off, ok)
	}
}

// sparse reads as a header followed by zeros without end.
type sparse struct{ head []byte }

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(s.head)) {
		copy(p, s.head[off:])
	}
	return len(p), nil
}

// TestSparseFile: the file's size bounds nothing when it is mostly a hole.
func TestSparseFile(t *testing.T) {
	const size = 1 << 50
	m := tiny()
	m.section(Section{Name: "hole", Type: elf.SHT_PROGBITS, Size: size})
	m.sections[3].Size = size // .symtab
	b := m.bytes()
	le.PutUint64(b[64+32:], size)
	le.PutUint64(b[64+40:], size)
	for _, tag := range []elf.DynTag{elf.DT_STRSZ, elf.DT_RELASZ} {
		m.patch(t, tag, size-1<<20)
	}
	bounded(t, func() {
		f, err := NewFile(sparse{b}, size, "sparse")
		if err != nil {
			t.Fatal(err)
		}
		errs := exercise(f)
		checkErrors(t, errs)
		if len(errs) == 0 {
			t.Error("no error")
		}
	})
}

var errDisk = errors.New("disk on fire")

type failing struct{ io.ReaderAt }

func (r failing) ReadAt(p []byte, off int64) (int, error) {
	if off > 0 {
		return 0, errDisk
	}
	return r.ReaderAt.ReadAt(p, off)
}

// TestReadError: an error of the reader is passed on, not taken for a bad format.
func TestReadError(t *testing.T) {
	m := tiny()
	m.add(make([]byte, 8192))
	b := m.bytes()
	if _, err := NewFile(failing{bytes.NewReader(b)}, int64(len(b)), "lib.so"); !errors.Is(err, errDisk) {
		t.Errorf("%v", err)
	}
}
