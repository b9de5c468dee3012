package supervisor

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/internal/attribution"
	"bulkhead/internal/cfi"
	"bulkhead/internal/disasm"
	"bulkhead/internal/dso"
	"bulkhead/internal/enforce/backend"
	"bulkhead/internal/objfile"
)

// object is a file whose code the target runs, or the vDSO, or memory without a file.
type object struct {
	backend.Object
	table *cfi.Table // nil: walked by frame pointer

	calls map[uint64]bool // whether a return address, as a file offset, follows a call
}

// objects reads each file once. It belongs to the tracer's thread, but for what runs ahead.
type objects struct {
	cache *cfi.Cache
	mu    sync.Mutex
	known map[backend.Identity]func() *object
	vdso  *object
}

func newObjects(cache *cfi.Cache) (*objects, error) {
	o := &objects{cache: cache, known: map[backend.Identity]func() *object{}}
	vdso, err := backend.OpenVDSO()
	if err != nil && !errors.Is(err, backend.ErrNoVDSO) {
		return nil, err
	}
	o.vdso = o.read(attribution.VDSO, vdso)
	return o, nil
}

// of returns the object behind a mapping of a process.
func (o *objects) of(tid int, m *dso.Mapping) *object {
	switch {
	case m.File.Path == attribution.VDSO:
		return o.vdso
	case !m.File.Backed():
		return o.read(attribution.Anonymous, nil)
	}
	file, err := dso.OpenMapped(tid, *m)
	if err != nil {
		return o.read(m.File.Path, nil)
	}
	return o.open(file, m.File.Path)
}

// open returns the object of an open file, which belongs to it from now on.
func (o *objects) open(file *os.File, path string) *object {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		file.Close()
		return o.read(path, nil)
	}
	id := backend.Identify(&stat, path)
	o.mu.Lock()
	load, known := o.known[id]
	if !known {
		load = sync.OnceValue(func() *object {
			elf, _ := objfile.NewFile(file, stat.Size, path) // what is none has no rows
			return o.read(path, elf)
		})
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

// read finds the unwind rows of a file. What is no ELF file (nil) has none.
func (o *objects) read(path string, elf *objfile.File) *object {
	obj := &object{Object: backend.NewObject(path, elf), calls: map[uint64]bool{}}
	if elf != nil {
		obj.table, _ = o.cache.Load(elf)
	}
	return obj
}

// longestCall is the size of the longest form of a call instruction, with a prefix.
const longestCall = 8

// followsCall tells whether the instruction before a return address, as a file offset, is a call. Code that no file has is
// not looked at.
func (obj *object) followsCall(offset uint64) bool {
	if obj.ELF == nil {
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
	vaddr, ok := obj.ELF.OffsetToVaddr(offset - 1)
	if !ok || vaddr < longestCall {
		return false
	}
	code, err := obj.ELF.ReadVaddr(vaddr+1-longestCall, longestCall)
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
func (obj *object) String() string { return fmt.Sprintf("%s (%s)", obj.Path, obj.BuildID()) }
