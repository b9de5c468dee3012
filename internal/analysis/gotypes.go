package analysis

import (
	_ "embed"
	"encoding/binary"
	"slices"
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
	// calls are by function the names of the methods that it calls through interfaces.
	// Functions without any, and those that the compiler makes, are not there.
	calls map[string][]string
}

// goReleases are those that the calls of functions are known for.
var goReleases = map[string]bool{}

// names reports whether the code of a package names an interface with these methods.
func (p *goStdPackage) names(methods []goMethodType) bool {
	return slices.ContainsFunc(p.methods, func(names []string) bool {
		return slices.EqualFunc(names, methods, func(name string, m goMethodType) bool { return name == m.name })
	})
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
			p = &goStdPackage{imports: map[string]bool{}, calls: map[string][]string{}}
			all[fields[0]] = p
		case fields[0] == "import":
			p.imports[fields[1]] = true
		case fields[0] == "gives":
			p.gives = true
		case fields[0] == "release":
			goReleases[fields[1]] = true
		case fields[0] == "calls":
			p.calls[fields[1]] = append(p.calls[fields[1]], fields[2])
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

// A goMethodType is a method of an interface: its name, and its type by the offset of
// the descriptor, of which the linker keeps one for each type.
type goMethodType struct {
	name string
	typ  uint32
}

// goTypes are the type descriptors of a Go program, found by their form.
type goTypes struct {
	file  *objfile.File
	span  objfile.Span
	words []uint64
	// interfaces are the methods of all interface types: calls go through no others.
	interfaces [][]goMethodType
	// methods are the types that the methods of types have, by the address of the code.
	methods map[uint64][]goMethodType
}

func readGoTypes(f *objfile.File, table *objfile.GoTable) (*goTypes, error) {
	span, err := table.Types()
	if err != nil {
		return nil, err
	}
	words, err := f.Pointers(span)
	if err != nil {
		return nil, err
	}
	t := &goTypes{file: f, span: span, words: words, methods: map[uint64][]goMethodType{}}
	t.findInterfaces()
	t.findMethods(table.Text)
	return t, nil
}

func (t *goTypes) findInterfaces() {
	for i := 0; i+interfaceTypeWords <= len(t.words); i++ {
		w := t.words[i : i+interfaceTypeWords]
		kind := w[typeKind]
		if w[typeSize] != 16 || w[typePointers] != 16 || kind>>kindShift&0x1f != interfaceKind || kind>>alignShift&0xff != 8 ||
			kind>>fieldAlignShift&0xff != 8 {
			continue
		}
		at, n := w[interfaceMethods], w[interfaceMethods+1]
		if n == 0 || n > maxInterfaceMethods || n != w[interfaceMethods+2] || !t.holds(at, 8*n) {
			continue
		}
		methods := make([]goMethodType, 0, n)
		for j := range n {
			word, _ := t.word(at + 8*j)
			name, ok := goTypeName(t.file, t.span, uint32(word))
			if !ok {
				break
			}
			methods = append(methods, goMethodType{name, uint32(word >> 32)})
		}
		if uint64(len(methods)) == n {
			t.interfaces = append(t.interfaces, methods)
		}
	}
}

func (t *goTypes) holds(at, n uint64) bool {
	return at >= t.span.Addr && at&3 == 0 && at-t.span.Addr <= t.span.Size && n <= t.span.Size-(at-t.span.Addr)
}

// word returns the eight bytes at an address that is a multiple of four.
func (t *goTypes) word(at uint64) (uint64, bool) {
	i := (at - t.span.Addr) / 8
	switch {
	case !t.holds(at, 8):
		return 0, false
	case (at-t.span.Addr)%8 == 0 && i < uint64(len(t.words)):
		return t.words[i], true
	case (at-t.span.Addr)%8 == 4 && i+1 < uint64(len(t.words)):
		return t.words[i]>>32 | t.words[i+1]<<32, true
	}
	return 0, false
}

// Flags of a type, and what an internal/abi.UncommonType, which is behind the
// descriptor, holds: where its list of methods is.
const (
	typeUncommon      = 1
	flagsShift        = 32
	maxMethods        = 4000
	methodWords       = 2 // internal/abi.Method: name, type, and two offsets of code
	unreachableMethod = 1<<32 - 1
)

// uncommonAt are the sizes of descriptors by kind, of those that are not the common 48
// bytes long: arrays, channels, functions, interfaces, maps, pointers, slices, structs.
// Those of maps have changed.
var uncommonAt = map[uint64][]uint64{17: {72}, 18: {64}, 19: {56}, 20: {80}, 21: {88, 104, 96, 112}, 22: {56}, 23: {56}, 25: {80}}

// findMethods finds the types with methods, by the form of their descriptors. What is
// none does no harm: it only adds types to functions.
func (t *goTypes) findMethods(text uint64) {
	for i := 0; i+6 <= len(t.words); i++ {
		kind := t.words[i+typeKind]
		k := kind >> kindShift & 0x1f
		if k == 0 || k > 26 || kind>>flagsShift&typeUncommon == 0 || t.words[i+typePointers] > t.words[i+typeSize] {
			continue
		}
		sizes := uncommonAt[k]
		if sizes == nil {
			sizes = []uint64{48}
		}
		for _, size := range sizes {
			t.addMethods(t.span.Addr+8*uint64(i)+size, text)
		}
	}
}

// addMethods reads an UncommonType: package, numbers of methods and of exported ones,
// and the offset of the list.
func (t *goTypes) addMethods(at, text uint64) {
	counts, ok := t.word(at)
	list, ok2 := t.word(at + 8)
	n := counts >> 32 & 0xffff
	if !ok || !ok2 || n == 0 || n > maxMethods || counts>>48 > n {
		return
	}
	first := at + list&0xffffffff
	if !t.holds(first, 8*methodWords*n) {
		return
	}
	for j := range n {
		head, _ := t.word(first + 8*methodWords*j)
		code, _ := t.word(first + 8*methodWords*j + 8)
		name, ok := goTypeName(t.file, t.span, uint32(head))
		if !ok {
			return
		}
		for _, off := range []uint64{code & 0xffffffff, code >> 32} {
			if off != 0 && off != unreachableMethod {
				m := goMethodType{name, uint32(head >> 32)}
				t.methods[text+off] = append(t.methods[text+off], m)
			}
		}
	}
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
