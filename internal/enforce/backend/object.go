package backend

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"bulkhead/internal/attribution"
	"bulkhead/internal/dso"
	"bulkhead/internal/objfile"
)

// Object is a file whose code a target may run, or the vDSO, or memory without a file.
type Object struct {
	Path string
	ELF  *objfile.File // nil: not an ELF file, or not readable

	symbols func() *objfile.Symbolizer
}

// NewObject returns the object behind a path. elf may be nil.
func NewObject(path string, elf *objfile.File) Object {
	return Object{path, elf, sync.OnceValue(func() *objfile.Symbolizer {
		if elf == nil {
			return nil
		}
		symbols, _ := elf.Symbolizer() // what could be read of them
		return symbols
	})}
}

// BuildID returns that of the file, or nothing.
func (o *Object) BuildID() string {
	if o.ELF == nil {
		return ""
	}
	return o.ELF.BuildID
}

// Symbolize names the code at a file offset: the function and the offset in it, or no name and the file offset.
func (o *Object) Symbolize(fileOffset uint64) (function string, offset uint64) {
	symbols := o.symbols()
	if symbols == nil {
		return "", fileOffset
	}
	vaddr, ok := o.ELF.OffsetToVaddr(fileOffset)
	if !ok {
		return "", fileOffset
	}
	if name, at, ok := symbols.Lookup(vaddr); ok {
		return name, at
	}
	return "", fileOffset
}

// Identity is a file with its content, as far as the file system tells.
type Identity struct {
	device, inode uint64
	size          int64
	changed       unix.Timespec
	path          string
}

// Identify returns the identity of the file at a path, of which stat(2) has told.
func Identify(stat *unix.Stat_t, path string) Identity {
	return Identity{stat.Dev, stat.Ino, stat.Size, stat.Ctim, path}
}

// ErrNoVDSO says that the kernel maps none: it was booted with vdso=0.
var ErrNoVDSO = errors.New("no vDSO is mapped")

// OpenVDSO returns a copy of the vDSO of this process: the kernel maps the same one everywhere.
func OpenVDSO() (*objfile.File, error) {
	mappings, err := dso.Mappings(os.Getpid())
	if err != nil {
		return nil, err
	}
	for _, m := range mappings {
		if m.File.Path == attribution.VDSO {
			image := bytes.Clone(unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&m.Start))), m.End-m.Start))
			return objfile.NewFile(bytes.NewReader(image), int64(len(image)), attribution.VDSO)
		}
	}
	return nil, ErrNoVDSO
}
