package trace

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"bulkhead/internal/cfi"
	"bulkhead/internal/dso"
	"bulkhead/internal/objfile"
	"bulkhead/internal/region"
)

// rowReader makes the unwind rows of files, each once. It can begin before the kernel part is loaded, which takes about as
// long as reading the rows of a server from the cache. Safe for concurrent use.
type rowReader struct {
	cache *cfi.Cache
	busy  *semaphore.Weighted // bytes of the files that are being read

	divide region.Options

	mu    sync.Mutex
	known map[identity]*reading
}

// reading is a file that is read, each part of it once. The regions are there before the rows.
type reading struct {
	regions func() *region.Map
	rows    func() fileRows
}

// readingBytes bounds the memory that making rows takes for the moment, which is about the size of the file.
const readingBytes = 32 << 20

// fileRows is what a file gives.
type fileRows struct {
	elf     *objfile.File // headers only so far: symbols are wanted at the end, if at all; nil: not an ELF file
	buildID string
	table   *cfi.Table // divided into the file's regions
	err     error
}

func newRowReader(opts Options) *rowReader {
	return &rowReader{
		cache: opts.Cache, busy: semaphore.NewWeighted(readingBytes), divide: opts.regions(), known: map[identity]*reading{},
	}
}

// ahead starts reading the rows of a program and its libraries.
func (r *rowReader) ahead(path string) {
	libraries, _, err := dso.Closure(path, dso.Options{})
	if err != nil {
		return // a script; its interpreter is known once it runs
	}
	for _, library := range libraries {
		if file, err := os.Open(library.Path); err == nil {
			go r.read(file, library.Path).rows()
		}
	}
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
	known := new(reading)
	known.regions = sync.OnceValue(func() *region.Map { return r.divideFile(file, id.size, path) })
	known.rows = sync.OnceValue(func() fileRows {
		share := min(id.size, readingBytes)
		_ = r.busy.Acquire(context.Background(), share) // fails only with its context
		defer r.busy.Release(share)
		rows := r.make(file, id.size, path)
		rows.table = known.regions().Divide(rows.table)
		return rows
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

func (r *rowReader) divideFile(file io.ReaderAt, size int64, path string) *region.Map {
	elf, err := objfile.NewFile(file, size, path)
	if err != nil {
		return region.Whole(r.divide.Conduits.Match(path))
	}
	regions, _ := region.New(elf, r.divide) // as far as it could be divided
	return regions
}

// make reads an ELF file; the result keeps r open.
func (r *rowReader) make(file io.ReaderAt, size int64, path string) (rows fileRows) {
	elf, err := objfile.NewFile(file, size, path)
	if err != nil {
		rows.err = err
		return rows
	}
	rows.buildID = elf.BuildID
	rows.table, rows.err = r.cache.Load(elf)
	// Another one for the symbols, because the first holds on to what the rows were made from.
	if rows.elf, err = objfile.NewFile(file, size, path); err != nil {
		rows.err = errors.Join(rows.err, err)
	}
	return rows
}

// readFunctions is make for a single function at a time.
func readFunctions(file *os.File, path string) *cfi.Functions {
	info, err := file.Stat()
	if err != nil {
		return nil
	}
	elf, err := objfile.NewFile(file, info.Size(), path)
	if err != nil {
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
