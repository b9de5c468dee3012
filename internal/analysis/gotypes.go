package analysis

import (
	_ "embed"
	"encoding/binary"
	"strings"
	"sync"

	"bulkhead/internal/objfile"
)

//go:embed gostd.txt
var goStdText string

// goStdPackage is what gostd.txt says of a package of Go's standard library.
type goStdPackage struct {
	imports map[string]bool
	methods [][]string // of the interfaces that its code names, sorted
	gives   bool       // func values to those who use it
}

// goStd are the packages by import path.
var goStd = sync.OnceValue(func() map[string]*goStdPackage {
	all := map[string]*goStdPackage{}
	var p *goStdPackage
	for line := range strings.Lines(goStdText) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || fields[0] == "#":
		case line[0] != '\t':
			p = &goStdPackage{imports: map[string]bool{}}
			all[fields[0]] = p
		case fields[0] == "import":
			p.imports[fields[1]] = true
		case fields[0] == "gives":
			p.gives = true
		case fields[0] == "methods":
			p.methods = append(p.methods, fields[1:])
		}
	}
	return all
})

// Parts of an internal/abi.InterfaceType, in words: the type's size and that of its
// pointers, a word with its kind, and the slice of its methods.
const (
	typeSize, typePointers, typeKind       = 0, 1, 2
	interfaceMethods, interfaceTypeWords   = 7, 10
	interfaceKind                          = 20
	maxInterfaceMethods                    = 1000
	kindShift, alignShift, fieldAlignShift = 56, 40, 48
)

// goInterfaces returns the methods of all interface types of a Go program: calls go
// through no others. Their descriptors are found by their form.
func goInterfaces(f *objfile.File, table *objfile.GoTable) ([][]string, error) {
	span, err := table.Types()
	if err != nil {
		return nil, err
	}
	words, err := f.Pointers(span)
	if err != nil {
		return nil, err
	}
	var out [][]string
	for i := 0; i+interfaceTypeWords <= len(words); i++ {
		w := words[i : i+interfaceTypeWords]
		kind := w[typeKind]
		if w[typeSize] != 16 || w[typePointers] != 16 || kind>>kindShift&0x1f != interfaceKind || kind>>alignShift&0xff != 8 ||
			kind>>fieldAlignShift&0xff != 8 {
			continue
		}
		at, n := w[interfaceMethods], w[interfaceMethods+1]
		if n == 0 || n > maxInterfaceMethods || n != w[interfaceMethods+2] || at < span.Addr || at+8*n > span.Addr+span.Size {
			continue
		}
		var names []string
		for j := range n {
			b, err := f.ReadVaddr(at+8*j, 4)
			if err != nil {
				break
			}
			name, ok := goTypeName(f, span, binary.LittleEndian.Uint32(b))
			if !ok {
				break
			}
			names = append(names, name)
		}
		if uint64(len(names)) == n {
			out = append(out, names)
		}
	}
	return out, nil
}

// goTypeName reads an internal/abi.Name at an offset of the type descriptors: flags,
// the length as a varint, and the bytes.
func goTypeName(f *objfile.File, span objfile.Span, offset uint32) (string, bool) {
	if uint64(offset)+3 > span.Size {
		return "", false
	}
	b, err := f.ReadVaddr(span.Addr+uint64(offset), 3)
	if err != nil {
		return "", false
	}
	n, size := binary.Uvarint(b[1:])
	if size <= 0 || n == 0 || uint64(offset)+1+uint64(size)+n > span.Size {
		return "", false
	}
	b, err = f.ReadVaddr(span.Addr+uint64(offset)+1+uint64(size), n)
	return string(b), err == nil
}
