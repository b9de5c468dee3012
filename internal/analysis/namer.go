package analysis

import (
	"bulkhead/internal/objfile"
)

// A namer names functions, reading symbol tables when first asked.
type namer struct {
	*program
	tables []*objfile.Symbolizer
	files  []*objfile.File // closed: their headers are still there
	tried  []bool
}

func newNamer(p *program) *namer {
	return &namer{program: p, tables: make([]*objfile.Symbolizer, len(p.objects)), files: make([]*objfile.File, len(p.objects)), tried: make([]bool, len(p.objects))}
}

// at names the function that holds an address of object l, and gives the offset
// in it. Without a name the offset is that in the file.
func (n *namer) at(l *linked, addr uint64) (name string, off uint64) {
	if !n.tried[l.index] {
		n.tried[l.index] = true
		n.files[l.index], n.tables[l.index] = l.symbolizer()
	}
	if t := n.tables[l.index]; t != nil {
		if name, off, ok := t.Lookup(addr); ok {
			return name, off
		}
	}
	if f := n.files[l.index]; f != nil {
		if off, ok := f.VaddrToOffset(addr); ok {
			return "", off
		}
	}
	return "", addr
}

// function names function f.
func (n *namer) function(f fid) string {
	l := n.owner[f]
	name, _ := n.at(l, l.Funcs[f-l.first].Start)
	return name
}
