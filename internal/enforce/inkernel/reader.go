package inkernel

import (
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/internal/cfi"
	"bulkhead/internal/dso"
	"bulkhead/internal/enforce/backend"
	"bulkhead/internal/objfile"
	"bulkhead/internal/region"
)

// reader reads the code of files. It can begin before the kernel part is loaded, which takes about as long as
// reading the libraries of a server. Safe for concurrent use.
type reader struct {
	cache  *cfi.Cache
	divide region.Options

	mu    sync.Mutex
	known map[backend.Identity]func() *code
	paths sync.Map // program → func() []string
}

// code is what is read of a file.
type code struct {
	elf     *objfile.File // nil: not an ELF file, or not readable
	table   *cfi.Table    // divided into regions; nil: it is walked by frame pointer
	regions *region.Map
	calls   bool // its return addresses follow calls: not so in Go
	err     error
}

func newReader(cache *cfi.Cache, divide region.Options) *reader {
	return &reader{cache: cache, divide: divide, known: map[backend.Identity]func() *code{}}
}

// ahead starts reading a program and the libraries that its loader will map.
func (r *reader) ahead(program string) {
	go func() {
		for _, path := range r.libraries(program) {
			if file, err := os.Open(path); err == nil {
				_, load := r.begin(file, path)
				go load()
			}
		}
	}()
}

// libraries returns the paths of a program and of what its loader will map; none for a script, whose interpreter is a program
// of its own.
func (r *reader) libraries(program string) []string {
	list, _ := r.paths.LoadOrStore(program, sync.OnceValue(func() []string {
		libraries, _, _ := dso.Closure(program, dso.Options{})
		var paths []string
		for _, library := range libraries {
			paths = append(paths, library.Path)
		}
		return paths
	}))
	return list.(func() []string)()
}

// begin returns a function that waits for the code of an open file, which belongs to the reader from now on.
func (r *reader) begin(file *os.File, path string) (id backend.Identity, load func() *code) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err == nil {
		id = backend.Identify(&stat, path)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.known[id]; known != nil {
		file.Close()
		return id, known
	}
	load = sync.OnceValue(func() *code {
		elf, err := newFile(file, path)
		return r.of(path, elf, err)
	})
	if id != (backend.Identity{}) {
		r.known[id] = load
	}
	return id, load
}

// take returns the code of an open file, and forgets it: its table is large.
func (r *reader) take(file *os.File, path string) *code {
	id, load := r.begin(file, path)
	c := load()
	r.mu.Lock()
	delete(r.known, id)
	r.mu.Unlock()
	return c
}

func newFile(file *os.File, path string) (*objfile.File, error) {
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	return objfile.NewFile(file, size, path)
}

// of reads an ELF file; nil: there is none, for the reason that err tells.
func (r *reader) of(path string, elf *objfile.File, err error) *code {
	c := &code{elf: elf, regions: region.Whole(r.divide.Conduits.Match(path)), err: err}
	if elf == nil {
		return c
	}
	var table *cfi.Table
	table, c.err = r.cache.Load(elf)
	c.regions, _ = region.New(elf, r.divide) // as far as it could be divided
	c.table = c.regions.Divide(table)
	c.calls = !hasGo(elf)
	return c
}

// hasGo tells whether a file has code of Go, whose runtime puts calls in where there are none (runtime.asyncPreempt).
func hasGo(elf *objfile.File) bool {
	return slices.ContainsFunc([]string{".gopclntab", ".data.rel.ro.gopclntab", ".go.buildinfo", ".note.go.buildid"},
		func(section string) bool { return elf.Section(section) != nil })
}
