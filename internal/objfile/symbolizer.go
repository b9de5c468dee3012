package objfile

import (
	"cmp"
	"debug/elf"
	"errors"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/ianlancetaylor/demangle"
)

// maxMangled bounds the names that are demangled: the time that it takes grows
// faster than the name.
const maxMangled = 4 << 10

// A Function is a range of code with a name.
type Function struct {
	Start, End uint64 // vaddrs; End is exclusive
	Name       string // as in the symbol table, not demangled
}

// A Symbolizer maps virtual addresses of code to functions. It may be used by
// several goroutines.
type Symbolizer struct {
	funcs  []Function // sorted by Start, one for each
	ranges []codeRange

	demangled sync.Map // mangled name -> demangled name
}

// A codeRange belongs to funcs[fn], or to none if fn is negative. It ends where the
// next one starts.
type codeRange struct {
	start uint64
	fn    int32
}

// Symbolizer returns the functions that the symbol tables and Go's function table
// name. If one of these cannot be read, the functions of the rest are returned
// together with an error.
func (f *File) Symbolizer() (*Symbolizer, error) { return f.symbolizer() }

func (f *File) newSymbolizer() (*Symbolizer, error) {
	syms, symErr := f.Symbols()
	if syms == nil && symErr != nil && !isFormat(symErr) {
		return nil, symErr
	}
	code := f.codeSpans()
	candidates := make([]candidate, 0, len(syms))
	for i := range syms {
		if c, ok := code.candidate(&syms[i]); ok {
			candidates = append(candidates, c)
		}
	}
	gotab, goErr := f.GoTable()
	if errors.Is(goErr, ErrNoGoTable) {
		goErr = nil
	}
	if gotab != nil {
		for _, fn := range gotab.Funcs {
			candidates = append(candidates, candidate{
				start: fn.Entry, size: fn.End - fn.Entry, limit: code.limit(fn.Entry), name: fn.Name,
			})
		}
	}
	s := new(Symbolizer)
	s.build(bestAliases(candidates))
	return s, errors.Join(symErr, goErr)
}

// Lookup returns the function that holds a vaddr, demangled, and the offset of the
// address in it. An address in no function, such as padding behind a function whose
// size is known, gives false.
func (s *Symbolizer) Lookup(vaddr uint64) (name string, offset uint64, ok bool) {
	fn := s.Find(vaddr)
	if fn == nil {
		return "", 0, false
	}
	return s.demangle(fn.Name), vaddr - fn.Start, true
}

// Find returns the function that holds a vaddr, or nil. Of functions that overlap
// it is the one that starts last.
func (s *Symbolizer) Find(vaddr uint64) *Function {
	i := sort.Search(len(s.ranges), func(i int) bool { return s.ranges[i].start > vaddr }) - 1
	if i < 0 || s.ranges[i].fn < 0 {
		return nil
	}
	return &s.funcs[s.ranges[i].fn]
}

// Functions returns all functions sorted by Start, with one name for each Start.
// Those written in assembly may overlap.
func (s *Symbolizer) Functions() []Function { return s.funcs }

func (s *Symbolizer) demangle(name string) string {
	if !isMangled(name) {
		return name
	}
	if d, ok := s.demangled.Load(name); ok {
		return d.(string)
	}
	d := Demangle(name)
	s.demangled.Store(name, d)
	return d
}

func isMangled(name string) bool {
	return strings.HasPrefix(name, "_Z") || strings.HasPrefix(name, "_R")
}

// Demangle returns a C++ or Rust symbol name as it is in the source, without the
// parameters and Rust's hash. Other names are returned as they are.
func Demangle(name string) string {
	if !isMangled(name) || len(name) > maxMangled {
		return name
	}
	return demangle.Filter(name, demangle.NoParams, demangle.MaxLength(12))
}

// build makes the ranges out of candidates with distinct starts in rising order.
func (s *Symbolizer) build(candidates []candidate) {
	s.funcs = make([]Function, 0, len(candidates))
	s.ranges = make([]codeRange, 0, len(candidates)+len(candidates)/4)
	var open []int32 // functions that hold the current address, innermost last
	closeUntil := func(vaddr uint64) {
		for len(open) > 0 && s.funcs[open[len(open)-1]].End <= vaddr {
			end := s.funcs[open[len(open)-1]].End
			for len(open) > 0 && s.funcs[open[len(open)-1]].End <= end {
				open = open[:len(open)-1]
			}
			outer := int32(-1)
			if len(open) > 0 {
				outer = open[len(open)-1]
			}
			s.ranges = append(s.ranges, codeRange{end, outer})
		}
	}
	for i, c := range candidates {
		closeUntil(c.start)
		end := c.limit
		if c.size != 0 {
			end = c.start + min(c.size, c.limit-c.start)
		} else {
			if len(open) > 0 {
				continue // a label inside a function
			}
			if i+1 < len(candidates) {
				end = min(end, candidates[i+1].start)
			}
		}
		if n := len(s.ranges); n > 0 && s.ranges[n-1].start == c.start {
			s.ranges = s.ranges[:n-1]
		}
		fn := int32(len(s.funcs))
		s.funcs = append(s.funcs, Function{c.start, end, c.name})
		s.ranges = append(s.ranges, codeRange{c.start, fn})
		open = append(open, fn)
	}
	closeUntil(^uint64(0))
}

// A candidate is a symbol that may name a function.
type candidate struct {
	start, size uint64
	limit       uint64 // where the code around it ends
	name        string
	rank        uint8 // of aliases the lowest is taken
}

// bestAliases returns one candidate for each start, in rising order.
func bestAliases(candidates []candidate) []candidate {
	// Tables come sorted by a hash: move small keys, and each candidate once.
	type key struct {
		start uint64
		i     int
	}
	keys := make([]key, len(candidates))
	for i := range candidates {
		keys[i] = key{candidates[i].start, i}
	}
	slices.SortFunc(keys, func(a, b key) int { return cmp.Compare(a.start, b.start) })
	best := make([]candidate, 0, len(keys))
	for _, k := range keys {
		c := &candidates[k.i]
		if n := len(best); n == 0 || best[n-1].start != c.start {
			best = append(best, *c)
		} else if compareAliases(c, &best[n-1]) < 0 {
			best[n-1] = *c
		}
	}
	return best
}

// compareAliases puts the better name of an address first. Sized, typed, exported
// and unadorned names come first, so that libc's wrapper is "write" and neither
// "__write" nor "__libc_write"; of "open" and "open64" the shorter one.
func compareAliases(a, b *candidate) int {
	if az, bz := a.size == 0, b.size == 0; az != bz {
		if bz {
			return -1
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(a.rank>>rankBinding, b.rank>>rankBinding),
		cmp.Compare(underscores(a.name), underscores(b.name)),
		cmp.Compare(a.rank, b.rank),
		cmp.Compare(len(a.name), len(b.name)),
		cmp.Compare(a.name, b.name),
		cmp.Compare(b.size, a.size),
	)
}

// Bits of candidate.rank. Those from rankBinding on count more than underscores.
const (
	rankWeak       = 1 << iota // weak, while an alias is global
	rankOldVersion             // name@version, not name@@version
	rankLocal                  // not exported
	rankUntyped                // STT_NOTYPE: a label

	rankBinding = 2
)

func underscores(name string) int { return len(name) - len(strings.TrimLeft(name, "_")) }

// codeSpans are the executable ranges of a file: sections where there are headers,
// for they end closer to the last function, and segments else.
type codeSpans struct {
	sections []Section
	spans    []Span // sorted
}

func (f *File) codeSpans() codeSpans {
	c := codeSpans{sections: f.Sections}
	for i := range f.Sections {
		s := &f.Sections[i]
		if s.Flags&(elf.SHF_ALLOC|elf.SHF_EXECINSTR) == elf.SHF_ALLOC|elf.SHF_EXECINSTR && s.Addr+s.Size >= s.Addr {
			c.spans = append(c.spans, Span{s.Addr, s.Size})
		}
	}
	if len(c.spans) == 0 {
		for i := range f.loads {
			if s := &f.loads[i]; s.Flags&elf.PF_X != 0 {
				c.spans = append(c.spans, Span{s.Vaddr, s.Memsz})
			}
		}
	}
	slices.SortFunc(c.spans, func(a, b Span) int { return cmp.Compare(a.Addr, b.Addr) })
	return c
}

// limit returns the end of the code around vaddr, or 0 if it is not in code.
func (c *codeSpans) limit(vaddr uint64) uint64 {
	i := sort.Search(len(c.spans), func(i int) bool { return c.spans[i].Addr > vaddr }) - 1
	if i < 0 || vaddr-c.spans[i].Addr >= c.spans[i].Size {
		return 0
	}
	return c.spans[i].Addr + c.spans[i].Size
}

// candidate says whether a symbol may name a function.
func (c *codeSpans) candidate(s *Symbol) (candidate, bool) {
	switch s.Type {
	case elf.STT_FUNC, elf.STT_GNU_IFUNC:
	case elf.STT_NOTYPE:
		// "$x" and "$d" mark code and data on arm64.
		if strings.HasPrefix(s.Name, "$") || strings.HasPrefix(s.Name, ".L") {
			return candidate{}, false
		}
	default:
		return candidate{}, false
	}
	if s.Name == "" || s.Shndx == elf.SHN_UNDEF || s.Shndx == elf.SHN_ABS {
		return candidate{}, false
	}
	limit := c.limit(s.Value)
	if limit == 0 {
		return candidate{}, false
	}
	// A symbol at the end of its section, such as etext, names nothing.
	if int(s.Shndx) < len(c.sections) && s.Source != SourceDebugdata {
		if sect := &c.sections[s.Shndx]; s.Value-sect.Addr >= sect.Size {
			return candidate{}, false
		}
	}
	if s.Size == 0 && (s.Name == "runtime.text" || s.Name == "runtime.etext") {
		return candidate{}, false // the Go linker's marks
	}
	return candidate{s.Value, s.Size, limit, s.Name, rank(s)}, true
}

func rank(s *Symbol) uint8 {
	var r uint8
	if s.Type == elf.STT_NOTYPE {
		r |= rankUntyped
	}
	if s.Bind == elf.STB_LOCAL {
		r |= rankLocal
	}
	if s.Bind == elf.STB_WEAK {
		r |= rankWeak
	}
	if s.Version != "" && !s.VersionDefault {
		r |= rankOldVersion
	}
	return r
}
