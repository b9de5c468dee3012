package cfi

import (
	"bytes"
	"cmp"
	"debug/elf"
	"slices"

	"bulkhead/internal/disasm"
	"bulkhead/internal/objfile"
)

// window is how much code is read at once, in bytes: gaps are small and close to each other.
const window = 1 << 20

// codeReader reads code by ascending address.
type codeReader struct {
	file *objfile.File
	addr uint64
	data []byte
}

// read returns the code at addr. limit is the end of its section.
func (r *codeReader) read(addr, n, limit uint64) ([]byte, error) {
	at := addr - r.addr
	if addr < r.addr || at > uint64(len(r.data)) || uint64(len(r.data))-at < n {
		data, err := r.file.ReadVaddr(addr, max(n, min(window, limit-addr)))
		if err != nil {
			return nil, err
		}
		r.addr, r.data, at = addr, data, 0
	}
	return r.data[at : at+n : at+n], nil
}

// gaps returns the code that no entry covers, in the order of addresses, without what is only padding between
// functions. On the way it marks the entries of outermost functions.
func (e *ehFrame) gaps(f *objfile.File) ([]gap, error) {
	entries := e.byAddress()
	reader := codeReader{file: f}
	var gaps []gap
	var last *entry
	for _, code := range codeRanges(f) {
		pos, end := code.vaddr, code.vaddr+code.size
		for len(entries) > 0 && entries[0].end <= pos {
			entries = entries[1:]
		}
		for pos < end {
			next := end
			if len(entries) > 0 {
				next = min(end, entries[0].begin)
			}
			if next > pos {
				data, err := reader.read(pos, next-pos, end)
				if err != nil {
					return nil, err
				}
				if skipPadding(data, 0) < len(data) {
					gaps = append(gaps, gap{pos, pos - code.vaddr + code.offset, data, e.runsOn(last, pos, f)})
				}
			}
			if len(entries) == 0 || entries[0].begin >= end {
				break
			}
			last, entries = entries[0], entries[1:]
			if err := last.mark(&reader, end); err != nil {
				return nil, err
			}
			pos = max(pos, last.end)
		}
	}
	return gaps, nil
}

// byAddress returns the entries in the order of their addresses.
func (e *ehFrame) byAddress() []*entry {
	entries := make([]*entry, len(e.entries))
	for i := range entries {
		entries[i] = &e.entries[i]
	}
	order := func(a, b *entry) int { return cmp.Compare(a.begin, b.begin) }
	if !slices.IsSortedFunc(entries, order) {
		slices.SortStableFunc(entries, order)
	}
	return entries
}

// mark looks whether an entry is an outermost function. limit is the end of its section.
func (e *entry) mark(reader *codeReader, limit uint64) error {
	size := e.end - e.begin
	if size < minStartContext || size > maxStartContext || e.end > limit {
		return nil
	}
	code, err := reader.read(e.begin, size, limit)
	if err == nil {
		e.outermost = isStartContext(code)
	}
	return err
}

// maxRunsOn bounds the code of an entry that is looked at for what follows it, in bytes.
const maxRunsOn = 64 << 10

// runsOn returns the state behind an entry when its code runs on at addr, nil when it does not: glibc interrupts the call
// frame information of clone and clone3 around the system call, since the child has another stack.
func (e *ehFrame) runsOn(last *entry, addr uint64, f *objfile.File) *stackState {
	if last == nil || last.end != addr || addr-last.begin > maxRunsOn {
		return nil
	}
	code, err := f.ReadVaddr(last.begin, addr-last.begin)
	if err != nil {
		return nil
	}
	for len(code) > 0 {
		in, err := disasm.Scan(code)
		if err != nil {
			return nil
		}
		if code = code[in.Size():]; len(code) == 0 && (!in.FallsThrough() || in.IsCall() || isPadding(&in)) {
			return nil
		}
	}
	m := machine{cie: last.cie, state: last.cie.initial, loc: last.begin, origin: e.addr + uint64(last.program)}
	if !m.run(e.data[last.program:last.program+last.length], func(uint64) bool { return true }) {
		return nil
	}
	rule, _ := m.state.rule()
	return stateOf(rule)
}

// glibc's __start_context is where the function of a makecontext stack returns to: mov %rbx,%rsp; mov (%rsp),%rdi;
// test %rdi,%rdi. It is the outermost frame there, but its FDE describes an ordinary function (glibc 2.36), so that a
// walk would go on with what else is on that stack.
var startContext = []byte{0x48, 0x89, 0xdc, 0x48, 0x8b, 0x3c, 0x24, 0x48, 0x85, 0xff}

const (
	minStartContext = 16 // bytes of the whole function
	maxStartContext = 128
)

func isStartContext(code []byte) bool {
	return bytes.HasPrefix(bytes.TrimPrefix(code, endbr64), startContext)
}

var endbr64 = []byte{0xf3, 0x0f, 0x1e, 0xfa}

// codeRanges returns what of a file is code: its executable sections or, without section headers, all that is mapped
// executable. Sorted by address, without overlap.
func codeRanges(f *objfile.File) segments {
	mapped := executable(f)
	var code segments
	for i := range f.Sections {
		s := &f.Sections[i]
		seg, ok := mapped.at(s.Addr)
		if !ok || s.Flags&elf.SHF_EXECINSTR == 0 || s.Flags&elf.SHF_ALLOC == 0 || s.Type == elf.SHT_NOBITS {
			continue
		}
		skip := s.Addr - seg.vaddr
		code = append(code, segment{s.Addr, seg.offset + skip, min(s.Size, seg.size-skip)})
	}
	if len(code) == 0 {
		code = mapped
	}
	slices.SortFunc(code, func(a, b segment) int { return cmp.Compare(a.vaddr, b.vaddr) })
	end := uint64(0)
	for i := range code {
		if c := &code[i]; c.vaddr < end {
			skip := min(end-c.vaddr, c.size)
			c.vaddr, c.offset, c.size = c.vaddr+skip, c.offset+skip, c.size-skip
		}
		end = code[i].vaddr + code[i].size
	}
	return code
}

// cut takes ranges of addresses out of gaps. Both are sorted.
func cut(gaps []gap, ranges []addressRange) []gap {
	var left []gap
	for _, g := range gaps {
		for len(ranges) > 0 && ranges[0].end <= g.addr {
			ranges = ranges[1:]
		}
		end := g.addr + uint64(len(g.code))
		for _, r := range ranges {
			if r.begin >= end {
				break
			}
			if r.begin > g.addr {
				left = append(left, g.slice(g.addr, r.begin))
			}
			g = g.slice(min(max(r.end, g.addr), end), end)
		}
		if len(g.code) > 0 {
			left = append(left, g)
		}
	}
	return left
}

// slice returns the part of a gap between two of its addresses.
func (g gap) slice(begin, end uint64) gap {
	skip := begin - g.addr
	part := gap{addr: begin, offset: g.offset + skip, code: g.code[skip : end-g.addr]}
	if skip == 0 {
		part.before = g.before
	}
	return part
}

type addressRange struct{ begin, end uint64 }

// The instructions of an rt_sigreturn trampoline: mov $15,%rax (or %eax); syscall. musl's has no .eh_frame, Go's
// (runtime.sigreturn__sigaction) neither; debuggers know them by these bytes, so they do not change.
var trampolines = [][]byte{
	{0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05},
	{0xb8, 15, 0, 0, 0, 0x0f, 0x05},
}

// findTrampolines returns the address ranges of signal trampolines in gaps, sorted. A range begins one byte early: the kernel
// lets handlers return to the first instruction, and return addresses are looked up one below.
func findTrampolines(gaps []gap) []addressRange {
	var found []addressRange
	for _, g := range gaps {
		for _, code := range trampolines {
			for pos := 0; ; {
				i := bytes.Index(g.code[pos:], code)
				if i < 0 {
					break
				}
				pos += i
				begin := g.addr + uint64(max(pos-1, 0))
				pos += len(code)
				found = append(found, addressRange{begin, g.addr + uint64(pos)})
			}
		}
	}
	slices.SortFunc(found, func(a, b addressRange) int { return cmp.Compare(a.begin, b.begin) })
	return found
}

// fill finds rules for the code that .eh_frame leaves out: signal trampolines, Go functions, and what data flow gives.
// The result is sorted by file offset.
func (e *ehFrame) fill(f *objfile.File) (spans []span, losses []Loss, err error) {
	gaps, err := e.gaps(f)
	if err != nil || len(gaps) == 0 {
		return nil, nil, err
	}
	signals := findTrampolines(gaps)
	mapped := executable(f)
	for _, r := range signals {
		if seg, ok := mapped.at(r.begin); ok {
			bias := seg.offset - seg.vaddr
			spans = append(spans, span{r.begin + bias, r.end + bias, Rule{CFA: KindSignal}})
		}
	}
	gaps = cut(gaps, signals)
	var foreign []uint64 // where functions begin that Go's table only names
	if table, err := f.GoTable(); err == nil && len(table.Funcs) > 0 {
		g := goCode{table: table}
		for _, gap := range gaps {
			g.fill(gap)
		}
		spans = append(spans, g.spans...)
		losses = append(losses, g.losses...)
		described := []addressRange{{table.Funcs[0].Entry, table.Funcs[len(table.Funcs)-1].End}}
		for _, c := range g.foreign {
			last := &described[len(described)-1]
			rest := addressRange{c.end, last.end}
			last.end = c.begin
			described = append(described, rest)
			foreign = append(foreign, c.begin)
		}
		gaps = cut(gaps, slices.DeleteFunc(described, func(r addressRange) bool { return r.begin >= r.end }))
	}
	starts := append(functionStarts(f, gaps), foreign...)
	slices.Sort(starts)
	starts = slices.Compact(starts)
	if r, ok := entryPoint(f.Entry, gaps, starts); ok {
		seg, _ := mapped.at(r.begin)
		bias := seg.offset - seg.vaddr
		spans = append(spans, span{r.begin + bias, r.end + bias, Rule{CFA: KindEnd}})
		gaps = cut(gaps, []addressRange{r})
	}
	for _, g := range gaps {
		more, lost := synthesize(g, starts)
		spans = append(spans, more...)
		losses = append(losses, lost...)
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.begin, b.begin) })
	return spans, losses, nil
}

// entryPoint returns the range of the function that the kernel starts, where it has no description of its own: nobody called
// it, and on its stack is argc.
func entryPoint(entry uint64, gaps []gap, starts []uint64) (addressRange, bool) {
	for _, g := range gaps {
		if !g.holds(entry) {
			continue
		}
		end := g.addr + uint64(len(g.code))
		if i, _ := slices.BinarySearch(starts, entry+1); i < len(starts) {
			end = min(end, starts[i])
		}
		return addressRange{entry, end}, true
	}
	return addressRange{}, false
}

// maxDataScan bounds how much data is searched for pointers, in bytes.
const maxDataScan = 64 << 20

// dataPointers returns the words of data that look like pointers into gaps. In a file that is not position-independent
// nothing else tells them.
func dataPointers(f *objfile.File, gaps []gap) []uint64 {
	var found []uint64
	for _, s := range f.Segments {
		if s.Type != elf.PT_LOAD || s.Flags&elf.PF_X != 0 || s.Filesz > maxDataScan {
			continue
		}
		data, err := f.ReadVaddr(s.Vaddr, s.Filesz)
		if err != nil {
			continue // the segment is cut short; what is there was not needed to load the code
		}
		for c := (cursor{data: data, pos: int(-s.Vaddr & 7)}); c.left() >= 8; {
			if p := c.u64(); inGaps(gaps, p) {
				found = append(found, p)
			}
		}
	}
	return found
}

// functionPointers returns those pointers that can be of functions: where code falls through to, in a table of jumps, or
// by chance in a constant, they are not.
func functionPointers(pointers, heads []uint64, gaps []gap) []uint64 {
	slices.Sort(pointers)
	pointers = slices.Compact(pointers)
	return slices.DeleteFunc(pointers, func(p uint64) bool {
		_, head := slices.BinarySearch(heads, p)
		g := gapOf(gaps, p)
		return !head || !g.returns(uint32(p-g.addr))
	})
}

// maxStart bounds the code of the C library's _start that is looked at, in bytes.
const maxStart = 64

// mainFunctions returns what _start hands to __libc_start_main: main and, up to glibc 2.33, init and fini. _start may have
// call frame information where main has none.
func mainFunctions(f *objfile.File, gaps []gap) []uint64 {
	code, err := f.ReadVaddr(f.Entry, maxStart)
	if err != nil {
		return nil // shorter than any _start
	}
	start := gap{addr: f.Entry, code: code}
	for pos := 0; pos < len(code); {
		in, err := disasm.Scan(code[pos:])
		if err != nil {
			return nil
		}
		pos += in.Size()
		if in.IsCall() {
			start.code = code[:pos]
			break
		}
	}
	var p codePointers
	p.scan(&start, gaps, f.Type == elf.ET_EXEC)
	return p.taken
}

// functionStarts returns the addresses of functions as far as a file tells them: its entry point, symbols, pointers that
// the loader relocates, and what the code in gaps calls. Sorted, unique.
func functionStarts(f *objfile.File, gaps []gap) []uint64 {
	if len(gaps) == 0 {
		return nil
	}
	fixed := f.Type == elf.ET_EXEC
	code := scanPointers(gaps, fixed)
	pointers := code.taken
	if fixed {
		pointers = append(pointers, dataPointers(f, gaps)...)
	}
	starts := append(code.called, f.Entry)
	starts = append(starts, functionPointers(pointers, code.heads, gaps)...)
	starts = append(starts, mainFunctions(f, gaps)...)
	symbols, _ := f.Symbols() // what can be read of them
	for i := range symbols {
		s := &symbols[i]
		if (s.Type == elf.STT_FUNC || s.Type == elf.STT_GNU_IFUNC) && s.Shndx != elf.SHN_UNDEF {
			starts = append(starts, s.Value)
		}
	}
	relocs, _ := f.Relocations()
	for _, r := range relocs {
		if t := elf.R_X86_64(r.Type); t == elf.R_X86_64_RELATIVE || t == elf.R_X86_64_IRELATIVE {
			starts = append(starts, uint64(r.Addend))
		}
	}
	slices.Sort(starts)
	return slices.Compact(starts)
}
