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
)

// rowReader makes the unwind rows of files, each once. It can begin before the kernel part is loaded, which takes about as
// long as reading the rows of a server from the cache. Safe for concurrent use.
type rowReader struct {
	cache *cfi.Cache
	busy  *semaphore.Weighted // bytes of the files that are being read

	mu    sync.Mutex
	known map[identity]func() fileRows
}

// readingBytes bounds the memory that making rows takes for the moment, which is about the size of the file.
const readingBytes = 32 << 20

// fileRows is what a file gives.
type fileRows struct {
	elf     *objfile.File // headers only so far: symbols are wanted at the end, if at all; nil: not an ELF file
	buildID string
	table   *cfi.Table
	err     error
}

func newRowReader(cache *cfi.Cache) *rowReader {
	return &rowReader{cache: cache, busy: semaphore.NewWeighted(readingBytes), known: map[identity]func() fileRows{}}
}

// ahead starts reading the rows of a program and its libraries.
func (r *rowReader) ahead(path string) {
	libraries, _, err := dso.Closure(path, dso.Options{})
	if err != nil {
		return // a script; its interpreter is known once it runs
	}
	for _, library := range libraries {
		if file, err := os.Open(library.Path); err == nil {
			go r.read(file, library.Path)
		}
	}
}

// read returns the rows of an open file, which belongs to the reader from now on.
func (r *rowReader) read(file *os.File, path string) fileRows {
	id, err := identityOf(file)
	if err != nil {
		return fileRows{err: err}
	}
	r.mu.Lock()
	rows, known := r.known[id]
	if !known {
		rows = sync.OnceValue(func() fileRows {
			share := min(id.size, readingBytes)
			_ = r.busy.Acquire(context.Background(), share) // fails only with its context
			defer r.busy.Release(share)
			return r.make(file, id.size, path)
		})
		r.known[id] = rows
	}
	r.mu.Unlock()
	if known {
		file.Close()
	}
	return rows()
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
