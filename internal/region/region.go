package region

import (
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"sort"
	"sync"

	"bulkhead/internal/attribution"
	"bulkhead/internal/cfi"
	"bulkhead/internal/objfile"
)

// A Part is what regions are made of: a Go module or package, the functions of a
// pattern, or what is left of the object.
type Part struct {
	Name    string // of the compartment; empty for what is left
	Version string // of a module, of Go for the standard library, empty if unknown
	Conduit bool
}

// A Region is code that is attributed alike.
type Region struct {
	// Parts are indexes into [Map.Parts], innermost first: several for code of one
	// part that was inlined into functions of another.
	Parts []uint16
	// Conduit: all parts are conduits.
	Conduit bool
	// Base: stacks of a kind all begin here (runtime.goexit), so that it says nothing
	// about who made a call.
	Base bool
}

// A Map divides an object. The zero value is not valid: see [Whole] and [New].
type Map struct {
	Parts   []Part   // Parts[0] is the object without the others
	Regions []Region // Regions[0] has Parts[0] alone
	runs    []run
	part    func(function string) uint16 // of Go's functions
	table   *objfile.GoTable
}

// run is code of one region, from its file offset up to the next run's.
type run struct {
	offset uint32
	region uint16
}

// Options say how objects are divided.
type Options struct {
	GoBy     GoBy // GoByModule if empty
	Symbols  []Symbols
	Conduits attribution.Conduits
}

// Symbols is a part that has the functions whose names match a pattern.
type Symbols struct {
	Name     string
	Patterns []string // path.Match syntax, for the name as it is or demangled
}

// Match reports whether the part has the function of that name.
func (s *Symbols) Match(function string) bool {
	demangled := objfile.Demangle(function)
	return slices.ContainsFunc(s.Patterns, func(pattern string) bool {
		return match(pattern, function) || match(pattern, demangled)
	})
}

func match(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil || pattern == name
}

// Whole is an object that is not divided.
func Whole(conduit bool) *Map {
	return &Map{Parts: []Part{{Conduit: conduit}}, Regions: []Region{{Parts: []uint16{0}, Conduit: conduit}}}
}

// New divides a file. With an error the map is still valid: some code is in Regions[0]
// that should be elsewhere.
func New(f *objfile.File, opts Options) (*Map, error) {
	b := &builder{Map: Whole(opts.Conduits.Match(f.Name)), index: map[string]uint16{}, parts: map[Part]uint16{}, opts: opts}
	b.index[key([]uint16{0}, false)] = 0
	err := b.divideGo(f)
	if b.table == nil && len(opts.Symbols) > 0 {
		err = errors.Join(err, b.divideSymbols(f))
	}
	if b.table != nil { // from now on several may ask
		var mu sync.Mutex
		b.part = func(function string) uint16 {
			mu.Lock()
			defer mu.Unlock()
			return b.ofFunction(function)
		}
	}
	return b.Map, err
}

type builder struct {
	*Map
	opts  Options
	index map[string]uint16
	parts map[Part]uint16
	names map[string]uint16 // part by function
	namer *goNamer
}

// divideGo divides a Go program or library.
func (b *builder) divideGo(f *objfile.File) error {
	table, err := f.GoTable()
	if errors.Is(err, objfile.ErrNoGoTable) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := f.GoBuildInfo()
	if err != nil {
		info = new(objfile.GoBuildInfo) // modules are guessed from the paths of packages
	}
	by := b.opts.GoBy
	if by == "" {
		by = GoByModule
	}
	b.table, b.namer, b.names = table, newGoNamer(info, by), map[string]uint16{}
	b.part = b.ofFunction
	var list []objfile.Inlining
	var broken error
	for i := range table.Funcs {
		fn := &table.Funcs[i]
		offset, ok := f.VaddrToOffset(fn.Entry)
		if !ok {
			continue
		}
		bias := offset - fn.Entry
		own := b.ofFunction(fn.Name)
		base := isBase(fn.Name)
		if list, err = table.AppendInlinings(list[:0], fn); err != nil {
			broken, list = err, list[:0]
		}
		if len(list) == 0 || list[0].PC > fn.Entry {
			b.add(fn.Entry+bias, []uint16{own}, base)
		}
		for _, in := range list {
			b.add(in.PC+bias, b.sequence(in.Names, own), base)
		}
		if i+1 == len(table.Funcs) || table.Funcs[i+1].Entry > fn.End {
			b.add(fn.End+bias, []uint16{0}, false)
		}
	}
	return broken
}

// isBase reports whether all goroutines begin in a function.
func isBase(function string) bool {
	return function == "runtime.goexit" || function == "runtime.goexit.abi0"
}

// ofFunction returns the part of a function.
func (b *builder) ofFunction(name string) uint16 {
	if part, ok := b.names[name]; ok {
		return part
	}
	p := b.namer.part(name)
	for i := range b.opts.Symbols {
		if s := &b.opts.Symbols[i]; s.Match(name) {
			p = Part{Name: s.Name}
			break
		}
	}
	p.Conduit = p.Conduit || b.opts.Conduits.MatchPart(p.Name)
	part := b.intern(p)
	b.names[name] = part
	return part
}

func (b *builder) intern(p Part) uint16 {
	part, ok := b.parts[p]
	if !ok && len(b.Parts) <= math.MaxUint16 {
		part = uint16(len(b.Parts))
		b.Parts = append(b.Parts, p)
		b.parts[p] = part
	}
	return part
}

// sequence returns the distinct parts of functions inlined into each other and of the
// function around them.
func (b *builder) sequence(functions []string, own uint16) []uint16 {
	parts := make([]uint16, 0, 4)
	for _, name := range functions {
		if p := b.ofFunction(name); !slices.Contains(parts, p) {
			parts = append(parts, p)
		}
	}
	if !slices.Contains(parts, own) {
		parts = append(parts, own)
	}
	return parts
}

func key(parts []uint16, base bool) string {
	k := make([]byte, 0, 2*len(parts)+1)
	for _, p := range parts {
		k = append(k, byte(p), byte(p>>8))
	}
	if base {
		k = append(k, 1)
	}
	return string(k)
}

// add lets code be in the region of these parts from a file offset on.
func (b *builder) add(offset uint64, parts []uint16, base bool) {
	if offset > math.MaxUint32 {
		return
	}
	id, ok := b.index[key(parts, base)]
	if !ok {
		if len(b.Regions) > math.MaxUint16 {
			id = 0
		} else {
			id = uint16(len(b.Regions))
			conduit := !slices.ContainsFunc(parts, func(p uint16) bool { return !b.Parts[p].Conduit })
			b.Regions = append(b.Regions, Region{slices.Clone(parts), conduit, base})
			b.index[key(parts, base)] = id
		}
	}
	n := len(b.runs)
	if n > 0 && b.runs[n-1].offset >= uint32(offset) {
		b.runs = b.runs[:n-1]
		n--
	}
	if n > 0 && b.runs[n-1].region == id || n == 0 && id == 0 {
		return
	}
	b.runs = append(b.runs, run{uint32(offset), id})
}

// divideSymbols divides an object by patterns of the names in its symbol tables.
func (b *builder) divideSymbols(f *objfile.File) error {
	symbols, err := f.Symbolizer()
	if symbols == nil {
		return fmt.Errorf("divide by symbols: %w", err)
	}
	for _, fn := range symbols.Functions() {
		offset, ok := f.VaddrToOffset(fn.Start)
		part, found := b.ofSymbol(fn.Name)
		if !ok || !found {
			continue
		}
		b.add(offset, []uint16{part}, false)
		b.add(offset+fn.End-fn.Start, []uint16{0}, false)
	}
	return err
}

func (b *builder) ofSymbol(name string) (uint16, bool) {
	for i := range b.opts.Symbols {
		if s := &b.opts.Symbols[i]; s.Match(name) {
			return b.intern(Part{Name: s.Name, Conduit: b.opts.Conduits.MatchPart(s.Name)}), true
		}
	}
	return 0, false
}

// Region returns the number of the region that the code at a file offset is in.
func (m *Map) Region(offset uint64) uint16 {
	i := sort.Search(len(m.runs), func(i int) bool { return uint64(m.runs[i].offset) > offset }) - 1
	if i < 0 {
		return 0
	}
	return m.runs[i].region
}

// At returns the region that the code at a file offset is in.
func (m *Map) At(offset uint64) *Region { return &m.Regions[m.Region(offset)] }

// Divided reports whether the object has more than one region.
func (m *Map) Divided() bool { return len(m.Regions) > 1 }

// Divide returns an unwind table whose rows end where regions do and carry their
// numbers.
func (m *Map) Divide(t *cfi.Table) *cfi.Table {
	if !m.Divided() || t == nil {
		return t
	}
	divided := *t
	rows := make([]cfi.Row, 0, len(t.Rows)+len(m.runs))
	var rule, region uint16
	for i, j := 0, 0; i < len(t.Rows) || j < len(m.runs); {
		offset := uint32(math.MaxUint32)
		if i < len(t.Rows) {
			offset = t.Rows[i].Offset
		}
		if j < len(m.runs) {
			offset = min(offset, m.runs[j].offset)
		}
		for i < len(t.Rows) && t.Rows[i].Offset == offset {
			rule = t.Rows[i].Rule
			i++
		}
		for j < len(m.runs) && m.runs[j].offset == offset {
			region = m.runs[j].region
			j++
		}
		rows = append(rows, cfi.Row{Offset: offset, Rule: rule, Region: region})
	}
	divided.Rows = rows
	return &divided
}

// A Call is a function that is active at an instruction, and its part.
type Call struct {
	Function string
	Part     uint16
}

// Calls returns the functions that are active at an instruction, given by vaddr and file
// offset: those that the code was inlined from, innermost first, and the one that it is
// in, whose name is empty where the map does not know it.
func (m *Map) Calls(vaddr, offset uint64) []Call {
	parts := m.Regions[m.Region(offset)].Parts
	if m.table == nil {
		return []Call{{Part: parts[0]}}
	}
	var calls []Call
	for _, name := range m.table.Inlined(vaddr) {
		calls = append(calls, Call{name, m.part(name)})
	}
	own := Call{Part: parts[len(parts)-1]}
	if fn := m.table.Find(vaddr); fn != nil {
		own = Call{fn.Name, m.part(fn.Name)}
	}
	return append(calls, own)
}

// Part returns the part of a Go function.
func (m *Map) Part(function string) uint16 {
	if m.part == nil {
		return 0
	}
	return m.part(function)
}

// Origin returns the part that is charged with calls from a region: the innermost that
// is no conduit, or else the outermost.
func (m *Map) Origin(region uint16) uint16 {
	parts := m.Regions[region].Parts
	for _, p := range parts {
		if !m.Parts[p].Conduit {
			return p
		}
	}
	return parts[len(parts)-1]
}
