package objfile

import (
	"debug/buildinfo"
	"slices"
	"sort"
)

// GoBuildInfo returns what the go command wrote into a program about its modules.
func (f *File) GoBuildInfo() (*GoBuildInfo, error) { return buildinfo.Read(f.r) }

// GoBuildInfo is what runtime/debug has for the running program.
type GoBuildInfo = buildinfo.BuildInfo

// Indexes of a function's tables (internal/abi).
const (
	pcdataInlineTree   = 2
	funcdataInlineTree = 3
)

// inlineTables returns where a function's record r says that its inlined calls are.
func inlineTables(r []byte, layout *goRecord) (pcdata, funcdata uint32) {
	npcdata, nfuncdata := uint64(le.Uint32(r[layout.npcdata:])), uint64(r[layout.size-1])
	if npcdata <= pcdataInlineTree || nfuncdata <= funcdataInlineTree {
		return 0, 0
	}
	at := layout.size + 4*pcdataInlineTree
	tree := layout.size + 4*(npcdata+funcdataInlineTree)
	if tree+4 > uint64(len(r)) || npcdata > uint64(len(r)) {
		return 0, 0
	}
	if funcdata = le.Uint32(r[tree:]); funcdata == ^uint32(0) {
		return 0, 0
	}
	return le.Uint32(r[at:]), funcdata
}

// Types returns where the program's type descriptors (internal/abi.Type) are. It is an
// error before Go 1.18.
func (t *GoTable) Types() (Span, error) {
	w, err := t.module()
	if err != nil {
		return Span{}, err
	}
	at := moduleFuncData[t.Layout] - 3 // types, etypes, rodata, gofunc
	if at < 0 || w[at+1] < w[at] {
		return Span{}, &FormatError{t.name, t.Addr, "no type descriptors"}
	}
	return Span{w[at], w[at+1] - w[at]}, nil
}

// The place of the address of go:func.* in runtime.moduledata, in words: Go 1.20 put
// the counters of coverage before it.
var moduleFuncData = map[GoLayout]int{Go118: 38, Go120: 40}

// goFuncData returns the linker's function data and what follows it: its end is
// nowhere written.
func (f *File) goFuncData(addr uint64, h *goHeader, module func() ([]uint64, error)) ([]byte, error) {
	at := moduleFuncData[h.layout]
	w, err := module()
	if err != nil {
		return nil, err
	}
	size := f.tableLimit(w[at])
	if w[at] < addr {
		size = min(size, addr-w[at])
	}
	return f.table(w[at], min(size, maxRead), "Go function data")
}

// An Inlining holds from PC up to the next one's.
type Inlining struct {
	PC uint64 // vaddr
	// Names are the functions that the code was inlined from, innermost first,
	// without the one that it is in. Empty for that one's own code.
	Names []string
}

// maxInlineDepth bounds the functions inlined into each other: the compiler's own
// bound is far lower.
const maxInlineDepth = 512

// AppendInlinings appends what the code of a function was inlined from, in rising order
// of addresses, to dst. Functions without inlined code, and programs before Go 1.18,
// add nothing.
func (t *GoTable) AppendInlinings(dst []Inlining, fn *GoFunc) ([]Inlining, error) {
	if fn.inlined == 0 {
		return dst, nil
	}
	data, err := t.funcdata()
	if err != nil {
		return dst, err
	}
	tree := inlineTree{table: t, fn: fn, data: data[min(uint64(fn.inlineTree), uint64(len(data))):], known: map[int32][]string{}}
	tree.entry, tree.name, tree.parent = 16, 4, 8
	if t.Layout == Go118 {
		tree.entry, tree.name, tree.parent = 20, 12, 16
	}
	first := len(dst)
	if err := t.values(fn, fn.inlined, "inlined calls", func(pc uint64, index int32) {
		tree.ranges = append(tree.ranges, inlineRange{pc, index})
	}); err != nil {
		return dst, err
	}
	for _, r := range tree.ranges {
		names, err := tree.names(r.index)
		if err != nil {
			return dst[:first], err
		}
		dst = append(dst, Inlining{r.pc, names})
	}
	return dst, nil
}

// An inlineTree is a function's runtime.inlinedCall array: each entry names a function
// and an address in the code that it was inlined into.
type inlineTree struct {
	table               *GoTable
	fn                  *GoFunc
	data                []byte
	entry, name, parent int32 // size of an entry, offsets of its fields
	ranges              []inlineRange
	known               map[int32][]string
}

type inlineRange struct {
	pc    uint64
	index int32 // of the entry; negative for none
}

// at returns the entry of the code at an address.
func (t *inlineTree) at(pc uint64) int32 {
	i := sort.Search(len(t.ranges), func(i int) bool { return t.ranges[i].pc > pc }) - 1
	if i < 0 {
		return -1
	}
	return t.ranges[i].index
}

// names returns the functions of an entry and of those that it was inlined into.
func (t *inlineTree) names(index int32) ([]string, error) {
	if names, ok := t.known[index]; ok {
		return names, nil
	}
	bad := func(why string) ([]string, error) {
		return nil, &FormatError{t.table.name, t.fn.Entry, "inlined calls of " + t.fn.Name + ": " + why}
	}
	var names []string
	var seen []int32
	for i := index; i >= 0 && !slices.Contains(seen, i); { // in large initialisers the compiler makes circles
		if len(names) == maxInlineDepth {
			return bad("they have no end")
		}
		seen = append(seen, i)
		at := int64(i) * int64(t.entry)
		if at+int64(t.entry) > int64(len(t.data)) {
			return bad("not inside the function data")
		}
		b := t.data[at:]
		name, ok := cstring(t.table.names, uint64(le.Uint32(b[t.name:])))
		if !ok {
			return bad("a name is not inside the Go function table")
		}
		names = append(names, name)
		i = t.at(t.fn.Entry + uint64(le.Uint32(b[t.parent:])))
	}
	t.known[index] = names
	return names, nil
}

// Inlined returns the functions that the code at a vaddr was inlined from, innermost
// first: see [Inlining].
func (t *GoTable) Inlined(vaddr uint64) []string {
	fn := t.Find(vaddr)
	if fn == nil {
		return nil
	}
	list, err := t.AppendInlinings(nil, fn)
	if err != nil {
		return nil
	}
	i := sort.Search(len(list), func(i int) bool { return list[i].PC > vaddr }) - 1
	if i < 0 {
		return nil
	}
	return list[i].Names
}
