package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"bulkhead/internal/attribution"
	"bulkhead/internal/cfi"
	"bulkhead/internal/disasm"
	"bulkhead/internal/dso"
	"bulkhead/internal/objfile"
)

// object is a file whose code the target runs, or the vDSO, or memory without a file.
type object struct {
	path    string
	elf     *objfile.File // nil: not an ELF file, or not readable
	table   *cfi.Table    // nil: walked by frame pointer
	symbols func() *objfile.Symbolizer

	calls map[uint64]bool // whether a return address, as a file offset, follows a call
}

// objects reads each file once. It belongs to the tracer's thread, but for what runs ahead.
type objects struct {
	cache *cfi.Cache
	mu    sync.Mutex
	known map[identity]func() *object
	vdso  *object
}

// identity is a file with its content, as far as the file system tells.
type identity struct {
	device, inode uint64
	size          int64
	changed       unix.Timespec
	path          string
}

func newObjects(cache *cfi.Cache) (*objects, error) {
	o := &objects{cache: cache, known: map[identity]func() *object{}}
	image, err := readVDSO()
	if err != nil {
		return nil, err
	}
	o.vdso = o.read(bytes.NewReader(image), int64(len(image)), attribution.VDSO)
	return o, nil
}

// readVDSO copies the vDSO of this process: the kernel maps the same one everywhere.
func readVDSO() ([]byte, error) {
	mappings, err := dso.Mappings(os.Getpid())
	if err != nil {
		return nil, err
	}
	for _, m := range mappings {
		if m.File.Path == attribution.VDSO {
			return bytes.Clone(unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&m.Start))), m.End-m.Start)), nil
		}
	}
	return nil, nil // booted with vdso=0
}

// of returns the object behind a mapping of a process.
func (o *objects) of(tid int, m *dso.Mapping) *object {
	switch {
	case m.File.Path == attribution.VDSO:
		return o.vdso
	case !m.File.Backed():
		return &object{path: attribution.Anonymous, symbols: noSymbols}
	}
	file, err := dso.OpenMapped(tid, *m)
	if err != nil {
		return &object{path: m.File.Path, symbols: noSymbols}
	}
	return o.open(file, m.File.Path)
}

// open returns the object of an open file, which belongs to it from now on.
func (o *objects) open(file *os.File, path string) *object {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		file.Close()
		return &object{path: path, symbols: noSymbols}
	}
	id := identity{stat.Dev, stat.Ino, stat.Size, stat.Ctim, path}
	o.mu.Lock()
	load, known := o.known[id]
	if !known {
		load = sync.OnceValue(func() *object { return o.read(file, stat.Size, path) })
		o.known[id] = load
	}
	o.mu.Unlock()
	if known {
		file.Close()
	}
	return load()
}

// ahead reads the files that a program's loader is about to map.
func (o *objects) ahead(path string) {
	libraries, _, err := dso.Closure(path, dso.Options{})
	if err != nil {
		return // a script: its interpreter is read once it runs
	}
	for _, library := range libraries {
		if file, err := os.Open(library.Path); err == nil {
			go o.open(file, library.Path)
		}
	}
}

func noSymbols() *objfile.Symbolizer { return nil }

type readerAt interface {
	ReadAt([]byte, int64) (int, error)
}

// read reads an ELF file. What is none has no rows.
func (o *objects) read(file readerAt, size int64, path string) *object {
	obj := &object{path: path, symbols: noSymbols, calls: map[uint64]bool{}}
	elf, err := objfile.NewFile(file, size, path)
	if err != nil {
		return obj
	}
	obj.elf = elf
	obj.table, _ = o.cache.Load(elf)
	obj.symbols = sync.OnceValue(func() *objfile.Symbolizer {
		symbols, _ := elf.Symbolizer() // what could be read of them
		return symbols
	})
	return obj
}

func (obj *object) buildID() string {
	if obj.elf == nil {
		return ""
	}
	return obj.elf.BuildID
}

// symbolize names the code at a file offset: the function and the offset in it, or no name and the file offset.
func (obj *object) symbolize(offset uint64) (function string, at uint64) {
	symbols := obj.symbols()
	if symbols == nil {
		return "", offset
	}
	vaddr, ok := obj.elf.OffsetToVaddr(offset)
	if !ok {
		return "", offset
	}
	if name, at, ok := symbols.Lookup(vaddr); ok {
		return name, at
	}
	return "", offset
}

// longestCall is the size of the longest form of a call instruction, with a prefix.
const longestCall = 8

// followsCall tells whether the instruction before a return address, as a file offset, is a call. Code that no file has is
// not looked at.
func (obj *object) followsCall(offset uint64) bool {
	if obj.elf == nil {
		return true
	}
	if known, ok := obj.calls[offset]; ok {
		return known
	}
	is := obj.readCall(offset)
	obj.calls[offset] = is
	return is
}

func (obj *object) readCall(offset uint64) bool {
	vaddr, ok := obj.elf.OffsetToVaddr(offset - 1)
	if !ok || vaddr < longestCall {
		return false
	}
	code, err := obj.elf.ReadVaddr(vaddr+1-longestCall, longestCall)
	if err != nil {
		return false
	}
	for size := 2; size <= longestCall; size++ {
		in, err := disasm.Scan(code[longestCall-size:])
		if err == nil && in.Size() == size && (in.Flow() == disasm.Call || in.Flow() == disasm.CallIndirect) {
			return true
		}
	}
	return false
}

// describe is for messages.
func (obj *object) String() string { return fmt.Sprintf("%s (%s)", obj.path, obj.buildID()) }
