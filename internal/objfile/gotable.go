package objfile

import (
	"bytes"
	"debug/elf"
	"errors"
	"slices"
	"sort"
	"sync"
)

// ErrNoGoTable says that a file holds no Go function table: it is not a Go program.
var ErrNoGoTable = errors.New("no Go function table")

// maxGoFuncs bounds the functions of a Go table: large programs have 200,000.
const maxGoFuncs = 1 << 20

// A GoTable is the function table that the Go linker writes for the runtime
// (pclntab). It is in stripped programs too.
type GoTable struct {
	Layout GoLayout
	Addr   uint64   // vaddr of the table
	Text   uint64   // vaddr of runtime.text, which entries count from; 0 before Go 1.18
	Funcs  []GoFunc // sorted by Entry, without overlap

	name    string // of the file, for errors
	quantum uint64 // bytes: what a pc delta of 1 stands for
	pctab   []byte
	names   string
	// funcdata reads what the linker keeps of functions besides the table (go:func.*).
	funcdata func() ([]byte, error)
	module   func() ([]uint64, error) // runtime.moduledata
}

// A GoLayout is a layout of the table, named after the first release that wrote it.
type GoLayout uint32

const (
	Go12  GoLayout = 0xfffffffb // the values are the magic numbers
	Go116 GoLayout = 0xfffffffa
	Go118 GoLayout = 0xfffffff0
	Go120 GoLayout = 0xfffffff1 // up to Go 1.26 and later; from 1.26 on without the text address
)

func (l GoLayout) String() string {
	switch l {
	case Go12:
		return "go1.2"
	case Go116:
		return "go1.16"
	case Go118:
		return "go1.18"
	case Go120:
		return "go1.20"
	}
	return "unknown"
}

// A GoFunc is a function in a GoTable.
type GoFunc struct {
	Entry, End uint64 // vaddrs. End is where the next function starts: it counts padding in
	Name       string
	Flags      GoFuncFlag
	pcsp       uint32 // offset in pctab; 0 for none
	inlined    uint32 // offset in pctab; 0 for none
	inlineTree uint32 // offset in the linker's function data, if inlined is not 0
}

// GoFuncFlag holds a function's flags (internal/abi.FuncFlag); 0 before Go 1.17.
type GoFuncFlag uint8

const (
	GoTopFrame GoFuncFlag = 1 << iota // outermost on its stack, such as runtime.goexit
	GoSPWrite                         // writes SP in a way that the table cannot express
	GoAsm                             // written in assembly; known from Go 1.18 on
)

// An SPDelta holds from PC up to the next one's.
type SPDelta struct {
	PC uint64 // vaddr
	// Delta is by how many bytes SP is below its value at the function's entry. On
	// amd64 the return address is at SP+Delta, and the CFA is SP+Delta+8; on arm64
	// the CFA is SP+Delta.
	Delta int32
}

// GoTable returns the function table of a Go program. It is found by its section
// or, where section headers are missing or were merged, by its header. The error is
// ErrNoGoTable if there is none.
func (f *File) GoTable() (*GoTable, error) { return f.goTable() }

func (f *File) readGoTable() (*GoTable, error) {
	if f.Class != 64 || f.quantum() == 0 {
		return nil, ErrNoGoTable
	}
	for _, name := range []string{".gopclntab", ".data.rel.ro.gopclntab"} {
		if s := f.Section(name); s != nil && s.Type != elf.SHT_NOBITS {
			return f.parseGoTable(s.Addr, min(s.Size, f.tableLimit(s.Addr)))
		}
	}
	if len(f.Sections) > 0 && f.Section(".go.buildinfo") == nil && f.Section(".note.go.buildid") == nil {
		return nil, ErrNoGoTable
	}
	return f.findGoTable()
}

// quantum is the unit of pc deltas: the smallest size of an instruction.
func (f *File) quantum() byte {
	switch f.Machine {
	case elf.EM_X86_64:
		return 1
	case elf.EM_AARCH64:
		return 4
	}
	return 0
}

const goHeaderSize = 72 // bytes, in the layouts since Go 1.18

// A goHeader is the header of a table: offsets in it, checked to be inside.
type goHeader struct {
	layout          GoLayout
	text            uint64 // vaddr of runtime.text, or 0
	names, namesEnd uint64 // function names
	pctab, pctabEnd uint64
	functab         uint64 // nfunc pairs of entry and record, and an end
	records         uint64 // what the pairs' second half counts from
	nfunc, entsize  uint64 // entsize: bytes of half a pair
}

// goRecord gives the offsets of the fields of a function's record (runtime._func),
// 0 for those that are not read.
type goRecord struct{ size, name, pcsp, npcdata, flags uint64 }

var goRecords = map[GoLayout]goRecord{
	Go12:  {40, 8, 20, 0, 0},
	Go116: {44, 8, 20, 0, 41},
	Go118: {40, 4, 16, 28, 37},
	Go120: {44, 4, 16, 28, 41},
}

// parseGoTable reads the table at addr, which is at most size bytes long.
func (f *File) parseGoTable(addr, size uint64) (*GoTable, error) {
	// First its header alone: one found by chance is dropped here.
	data, err := f.table(addr, min(size, goHeaderSize), "Go function table")
	if err != nil {
		return nil, err
	}
	if _, err := f.goHeader(addr, data, size); err != nil {
		return nil, err
	}
	if data, err = f.table(addr, size, "Go function table"); err != nil {
		return nil, err
	}
	if data, err = f.relocate(addr, data); err != nil {
		return nil, err
	}
	h, err := f.goHeader(addr, data, size)
	if err != nil {
		return nil, err
	}
	if h.entsize == 4 && h.text == 0 {
		if h.text, err = f.goText(addr, h, data); err != nil {
			return nil, err
		}
	}
	t := &GoTable{
		Layout: h.layout, Addr: addr, Text: h.text,
		name: f.Name, quantum: uint64(f.quantum()), pctab: data[h.pctab:h.pctabEnd],
	}
	t.names = string(data[h.names:h.namesEnd])
	t.module = sync.OnceValues(func() ([]uint64, error) {
		at := moduleFuncData[h.layout]
		return f.goModule(addr, h, func(w []uint64) bool { return f.tableLimit(w[at]) > 0 })
	})
	t.funcdata = sync.OnceValues(func() ([]byte, error) { return f.goFuncData(addr, h, t.module) })
	t.Funcs, err = f.goFuncs(addr, h, data, t.names)
	return t, err
}

// relocate applies the relative relocations of a range. Position-independent
// programs had absolute addresses in the table up to Go 1.25.
func (f *File) relocate(addr uint64, data []byte) ([]byte, error) {
	relocs, err := f.Relocations()
	if err != nil {
		return nil, err
	}
	relative, _ := f.relativeType()
	shared := true
	for _, r := range relocs[searchRelocs(relocs, addr):] {
		at := r.Offset - addr
		if at > uint64(len(data)) || uint64(len(data))-at < 8 {
			break
		}
		if r.Type != relative {
			continue
		}
		if shared {
			data, shared = slices.Clone(data), false
		}
		le.PutUint64(data[at:], uint64(r.Addend))
	}
	return data, nil
}

// goHeader decodes the header at the start of a table of n bytes.
func (f *File) goHeader(addr uint64, data []byte, n uint64) (*goHeader, error) {
	if len(data) < goHeaderSize || data[4] != 0 || data[5] != 0 || data[6] != f.quantum() || data[7] != 8 {
		return nil, f.malformed(addr, "Go function table: not a header")
	}
	word := func(i int) uint64 { return le.Uint64(data[8+8*i:]) }
	h := &goHeader{layout: GoLayout(le.Uint32(data)), nfunc: word(0), entsize: 8}
	switch h.layout {
	case Go12:
		h.namesEnd, h.pctabEnd, h.functab = n, n, 16
	case Go116:
		h.names, h.namesEnd, h.pctab, h.pctabEnd = word(2), word(3), word(5), word(6)
		h.functab, h.records = h.pctabEnd, h.pctabEnd
	case Go118, Go120:
		h.text, h.entsize = word(2), 4
		h.names, h.namesEnd, h.pctab, h.pctabEnd = word(3), word(4), word(6), word(7)
		h.functab, h.records = h.pctabEnd, h.pctabEnd
	default:
		return nil, f.malformed(addr, "Go function table: unknown magic number %#x", uint32(h.layout))
	}
	if h.names > h.namesEnd || h.pctab > h.pctabEnd || h.namesEnd > n || h.pctabEnd > n {
		return nil, f.malformed(addr, "Go function table: its parts are not inside it")
	}
	if h.nfunc == 0 || h.nfunc > maxGoFuncs || (2*h.nfunc+1)*h.entsize > n-h.functab {
		return nil, f.malformed(addr, "Go function table: %d functions in %d bytes", h.nfunc, n)
	}
	return h, nil
}

// entry returns the i'th pair of functab: where function i starts, and its record.
// The record of the pair after the last function is not valid.
func (h *goHeader) entry(data []byte, i uint64) (vaddr, record uint64) {
	b := data[h.functab+2*i*h.entsize:]
	if h.entsize == 8 {
		vaddr = le.Uint64(b)
		if i < h.nfunc {
			record = le.Uint64(b[8:])
		}
		return vaddr, record
	}
	vaddr = h.text + uint64(le.Uint32(b))
	if i < h.nfunc {
		record = uint64(le.Uint32(b[4:]))
	}
	return vaddr, record
}

func (f *File) goFuncs(addr uint64, h *goHeader, data []byte, names string) ([]GoFunc, error) {
	first, _ := h.entry(data, 0)
	end, _ := h.entry(data, h.nfunc)
	if end <= first || !f.isCode(first) || !f.isCode(end-1) {
		return nil, f.malformed(addr, "Go function table: functions from %#x to %#x are not in code", first, end)
	}
	layout := goRecords[h.layout]
	records := data[h.records:]
	funcs := make([]GoFunc, 0, h.nfunc)
	for i := range h.nfunc {
		start, at := h.entry(data, i)
		next, _ := h.entry(data, i+1)
		if next < start || next > end {
			return nil, f.malformed(addr, "Go function table: function %d at %#x is out of order", i, start)
		}
		if at > uint64(len(records)) || uint64(len(records))-at < layout.size {
			return nil, f.malformed(addr, "Go function table: the record of function %d is not inside it", i)
		}
		r := records[at:]
		name, ok := cstring(names, uint64(le.Uint32(r[layout.name:])))
		if !ok {
			return nil, f.malformed(addr, "Go function table: the name of function %d is not inside it", i)
		}
		fn := GoFunc{Entry: start, End: next, Name: name, pcsp: le.Uint32(r[layout.pcsp:])}
		if layout.flags != 0 {
			fn.Flags = GoFuncFlag(r[layout.flags])
		}
		if layout.npcdata != 0 {
			fn.inlined, fn.inlineTree = inlineTables(r, &layout)
		}
		if next > start {
			funcs = append(funcs, fn)
		}
	}
	return funcs, nil
}

func (f *File) isCode(vaddr uint64) bool {
	s := f.load(vaddr)
	return s != nil && s.Flags&elf.PF_X != 0
}

// Offsets in runtime.moduledata, the same since Go 1.18.
const (
	moduleNames = 8   // funcnametab
	moduleMinPC = 160 // where the first function starts
	moduleText  = 176 // runtime.text
	moduleSize  = 328 // up to gofunc, see goFuncData
)

// goText finds the address that functions count from, which the table lacks since
// Go 1.26. It is in runtime.moduledata, which begins with a pointer to the table.
func (f *File) goText(addr uint64, h *goHeader, data []byte) (uint64, error) {
	first, _ := h.entry(data, 0)
	w, err := f.goModule(addr, h, func(w []uint64) bool {
		text := w[moduleText/8]
		return w[moduleMinPC/8] == text+first && f.isCode(text)
	})
	if err != nil {
		return 0, err
	}
	return w[moduleText/8], nil
}

// goModule returns the words of runtime.moduledata, which begins with a pointer to
// the table.
func (f *File) goModule(addr uint64, h *goHeader, good func([]uint64) bool) (words []uint64, err error) {
	check := func(module uint64) bool {
		w, err := f.Pointers(Span{module, moduleSize})
		if err != nil || len(w) < moduleSize/8 || w[0] != addr || w[moduleNames/8] != addr+h.names || !good(w) {
			return false
		}
		words = w
		return true
	}
	if s := f.Section(".go.module"); s != nil && check(s.Addr) {
		return words, nil
	}
	if f.findPointer(addr, check) {
		return words, nil
	}
	return nil, f.malformed(addr, "Go function table: no module data leads to it")
}

// findPointer calls check with the address of each word that holds target after
// relocation, until it returns true.
func (f *File) findPointer(target uint64, check func(uint64) bool) bool {
	relocs, err := f.Relocations()
	if err != nil {
		return false
	}
	relative, _ := f.relativeType()
	for _, r := range relocs {
		if r.Type == relative && uint64(r.Addend) == target && check(r.Offset) {
			return true
		}
	}
	pattern := le.AppendUint64(nil, target)
	for _, s := range f.loads {
		if s.Flags&elf.PF_W != 0 && f.scan(s, pattern, check) {
			return true
		}
	}
	return false
}

// findGoTable scans the loaded segments for a table's header.
func (f *File) findGoTable() (*GoTable, error) {
	// The four magic numbers differ in the first byte only.
	pattern := []byte{0xff, 0xff, 0xff, 0, 0, f.quantum(), 8}
	var t *GoTable
	check := func(at uint64) bool {
		if at--; at%8 != 0 {
			return false
		}
		found, err := f.parseGoTable(at, min(f.tableLimit(at), maxRead))
		if err == nil {
			t = found
		}
		return err == nil
	}
	for _, s := range f.loads {
		if f.scan(s, pattern, check) {
			return t, nil
		}
	}
	return nil, ErrNoGoTable
}

// maxScanHits bounds how many matches of a pattern are looked at.
const maxScanHits = 64

// scan calls check with the vaddr of each occurrence of a pattern in the file's part
// of a segment, until it returns true. Bytes that cannot be read end it: whoever
// needs them reports that.
func (f *File) scan(s Segment, pattern []byte, check func(uint64) bool) bool {
	overlap := uint64(len(pattern) - 1) // an occurrence may lie across two chunks
	hits := 0
	for pos := uint64(0); pos+overlap < s.Filesz; pos += chunkSize {
		b, err := f.bytesAt(s.Offset+pos, min(s.Filesz-pos, chunkSize+overlap), "segment")
		if err != nil {
			return false
		}
		for at := 0; ; at++ {
			i := bytes.Index(b[at:], pattern)
			if i < 0 {
				break
			}
			at += i
			if hits++; hits > maxScanHits {
				return false
			}
			if check(s.Vaddr + pos + uint64(at)) {
				return true
			}
		}
	}
	return false
}

// Find returns the function that holds a vaddr, or nil.
func (t *GoTable) Find(vaddr uint64) *GoFunc {
	i := sort.Search(len(t.Funcs), func(i int) bool { return t.Funcs[i].Entry > vaddr }) - 1
	if i < 0 || vaddr >= t.Funcs[i].End {
		return nil
	}
	return &t.Funcs[i]
}

// AppendSPDeltas appends the stack depths of a function, from its first address on,
// to dst. A function without a frame table, as some written in assembly are, has
// none. The last one holds up to the function's end at most.
func (t *GoTable) AppendSPDeltas(dst []SPDelta, fn *GoFunc) ([]SPDelta, error) {
	err := t.values(fn, fn.pcsp, "stack depths", func(pc uint64, depth int32) {
		dst = append(dst, SPDelta{pc, depth})
	})
	return dst, err
}

// values calls yield with the address from which on each value holds of the table at
// an offset in pctab. Offset 0 stands for no table.
func (t *GoTable) values(fn *GoFunc, offset uint32, what string, yield func(pc uint64, value int32)) error {
	if offset == 0 {
		return nil
	}
	bad := func(why string) error {
		return &FormatError{t.name, fn.Entry, what + " of " + fn.Name + ": " + why}
	}
	if uint64(offset) >= uint64(len(t.pctab)) {
		return bad("not inside the Go function table")
	}
	b := t.pctab[offset:]
	pc, value := fn.Entry, int32(-1)
	for first := true; ; first = false {
		change, n := uvarint32(b)
		if n == 0 {
			return bad("cut short")
		}
		if change == 0 && !first {
			return nil
		}
		step, m := uvarint32(b[n:])
		if m == 0 {
			return bad("cut short")
		}
		b = b[n+m:]
		value += int32(change>>1) ^ -int32(change&1)
		yield(pc, value)
		pc += uint64(step) * t.quantum
		if step == 0 || pc > fn.End {
			return bad("they do not lead to its end")
		}
	}
}

// uvarint32 decodes a 32-bit varint and returns how many bytes it has, or 0 if it
// is cut short or too long.
func uvarint32(b []byte) (v uint32, n int) {
	for i := 0; i < len(b) && i < 5; i++ {
		v |= uint32(b[i]&0x7f) << (7 * i)
		if b[i]&0x80 == 0 {
			return v, i + 1
		}
	}
	return 0, 0
}
