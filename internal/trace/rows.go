package trace

import (
	"context"
	"os"
	"strings"
	"sync"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"bulkhead/internal/cfi"
	"bulkhead/internal/dso"
	"bulkhead/internal/filecache"
	"bulkhead/internal/objfile"
	"bulkhead/internal/region"
)

// rowReader makes the unwind rows of files, each once. It can begin before the kernel part is loaded, which takes about as
// long as reading the rows of a server from the cache. Safe for concurrent use.
type rowReader struct {
	cache *cfi.Cache
	start *filecache.Cache
	busy  *semaphore.Weighted // bytes of the files that are being read

	divide region.Options

	mu    sync.Mutex
	known map[identity]*reading
}

// reading is a file that is read, each part of it once. The regions are there before the rows.
type reading struct {
	file    *os.File // stays open; nil: there is none
	regions func() *region.Map
	rows    func() fileRows
}

// readingBytes bounds the memory that making rows takes for the moment, which is about the size of the file.
const readingBytes = 32 << 20

// fileRows is what a file gives.
type fileRows struct {
	table *heldTable           // divided into the file's regions
	elf   func() *objfile.File // wanted at the end, if at all; nil: not an ELF file
	err   error
}

func newRowReader(opts Options) *rowReader {
	return &rowReader{
		cache: opts.Cache, start: opts.Start,
		busy: semaphore.NewWeighted(readingBytes), divide: opts.regions(), known: map[identity]*reading{},
	}
}

// ahead starts reading the rows of a program and its libraries, and returns a function that waits for their paths.
func (r *rowReader) ahead(program string) func() []string {
	libraries := sync.OnceValue(func() []string {
		paths := r.libraries(program)
		for _, path := range paths {
			if file, err := os.Open(path); err == nil {
				go r.read(file, path).rows()
			}
		}
		return paths
	})
	go libraries()
	return libraries
}

// libraries returns the paths of a program and of what its loader will map; none for a script. They are only loaded ahead, so
// it does no harm when those of an earlier start are out of date.
func (r *rowReader) libraries(program string) []string {
	key := closureKey(program)
	if kept := r.kept(key); kept != nil {
		return strings.Split(string(kept), "\n")
	}
	var paths []string
	libraries, _, _ := dso.Closure(program, dso.Options{}) // what was found of it
	for _, library := range libraries {
		paths = append(paths, library.Path)
	}
	if r.start != nil && key != "" && len(paths) > 0 {
		_ = r.start.Put(key, []byte(strings.Join(paths, "\n")))
	}
	return paths
}

func (r *rowReader) kept(key string) []byte {
	if r.start == nil || key == "" {
		return nil
	}
	return r.start.Get(key)
}

// closureKey names what the loader finds for a program: installing libraries changes ld.so.cache. Empty: not to be kept.
func closureKey(program string) string {
	var key string
	for _, path := range [...]string{program, "/etc/ld.so.cache"} {
		info, err := os.Stat(path)
		if err != nil {
			continue // systems with musl have no ld.so.cache
		}
		one := filecache.FileKey(info)
		if one == "" {
			return ""
		}
		key += one
	}
	return key
}

// read returns the reading of an open file, which belongs to the reader from now on.
func (r *rowReader) read(file *os.File, path string) *reading {
	id, err := identityOf(file)
	if err != nil {
		return r.failed(path, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.known[id]; known != nil {
		file.Close()
		return known
	}
	known := &reading{file: file}
	known.regions = sync.OnceValue(func() *region.Map { return r.divideFile(file, path) })
	known.rows = sync.OnceValue(func() fileRows {
		share := min(id.size, readingBytes)
		_ = r.busy.Acquire(context.Background(), share) // fails only with its context
		defer r.busy.Release(share)
		return r.make(file, path, known.regions())
	})
	r.known[id] = known
	return known
}

// failed is the reading of a file that cannot be read.
func (r *rowReader) failed(path string, err error) *reading {
	return &reading{
		regions: func() *region.Map { return region.Whole(r.divide.Conduits.Match(path)) },
		rows:    func() fileRows { return fileRows{err: err} },
	}
}

func (r *rowReader) divideFile(file *os.File, path string) *region.Map {
	elf := openELF(file, path)()
	if elf == nil {
		return region.Whole(r.divide.Conduits.Match(path))
	}
	regions, _ := region.New(elf, r.divide) // as far as it could be divided
	return regions
}

// make reads a file, which stays open.
func (r *rowReader) make(file *os.File, path string, regions *region.Map) fileRows {
	read := func() (*cfi.Table, error) {
		table, err := r.cache.Open(file, path)
		return regions.Divide(table), err
	}
	table, err := read()
	held := &heldTable{table: table}
	if r.cache != nil && err == nil {
		held.again = func() *cfi.Table { table, _ := read(); return table }
	}
	return fileRows{held, openELF(file, path), err}
}

// heldTable is a table that the kernel has too. Only stacks that were captured before it had need another look.
type heldTable struct {
	again func() *cfi.Table // reads it again; nil: it has to be kept

	mu    sync.Mutex
	table *cfi.Table
}

func (h *heldTable) get() *cfi.Table {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.table == nil && h.again != nil {
		h.table = h.again()
	}
	return h.table
}

// drop lets go of a table that can be read again.
func (h *heldTable) drop() {
	if h == nil || h.again == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.table = nil
}

func openELF(file *os.File, path string) func() *objfile.File {
	return sync.OnceValue(func() *objfile.File {
		info, err := file.Stat()
		if err != nil {
			return nil
		}
		elf, err := objfile.NewFile(file, info.Size(), path)
		if err != nil {
			return nil
		}
		return elf
	})
}

// readFunctions is make for a single function at a time. Not for Go's programs: their regions take as long as their rows.
func readFunctions(file *os.File, path string) *cfi.Functions {
	elf := openELF(file, path)()
	if elf == nil || elf.Section(".go.buildinfo") != nil || elf.Section(".note.go.buildid") != nil {
		return nil
	}
	functions, err := cfi.OpenFunctions(elf)
	if err != nil {
		return nil
	}
	return functions
}

// identity is a file with its content, as far as the file system tells.
type identity struct {
	device, inode uint64
	size          int64
	modified      unix.Timespec
}

func identityOf(file *os.File) (identity, error) {
	var s unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &s); err != nil {
		return identity{}, &os.PathError{Op: "fstat", Path: file.Name(), Err: err}
	}
	return identity{s.Dev, s.Ino, s.Size, s.Mtim}, nil
}
