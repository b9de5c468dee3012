package cfi

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"bulkhead/internal/objfile"
)

// DefaultCacheLimit is how many bytes of tables a cache keeps.
const DefaultCacheLimit = 512 << 20

const (
	cacheName   = "bulkhead/cfi-v1" // below the user's cache directory
	cacheSuffix = ".cfi"
	tempPrefix  = "tmp-"
	// staleTemp is the age at which an unfinished write is taken for abandoned, and touchAfter that at which a use is
	// recorded in the file's time.
	staleTemp  = time.Hour
	touchAfter = time.Hour
)

// Cache keeps tables of files in a directory. Any number of processes may use it at once: an entry appears by rename and
// is complete, and a damaged one is built anew.
type Cache struct {
	dir   string
	Limit int64 // bytes; the least recently used entries go first
}

// OpenCache opens or creates a cache. With an empty dir it is bulkhead/cfi-v1 in the user's cache directory ($XDG_CACHE_HOME
// or ~/.cache).
func OpenCache(dir string) (*Cache, error) {
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("finding the cache directory: %w", err)
		}
		dir = filepath.Join(user, filepath.FromSlash(cacheName))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the cache of unwind tables: %w", err)
	}
	return &Cache{dir: dir, Limit: DefaultCacheLimit}, nil
}

// Load returns the table of a file, from the cache or by Build. Trouble with the cache is not an error: the table is then
// built, which is slower. A nil cache always builds.
func (c *Cache) Load(f *objfile.File) (*Table, error) {
	if c == nil {
		return Build(f)
	}
	key, err := cacheKey(f)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(c.dir, key+cacheSuffix)
	if t := c.read(path); t != nil {
		return t, nil
	}
	t, err := Build(f)
	if err != nil {
		return nil, err
	}
	if err := c.write(path, t); err == nil {
		c.trim()
	}
	return t, nil
}

// read returns an entry, nil when there is none that can be used.
func (c *Cache) read(path string) *Table {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() > c.Limit {
		return nil
	}
	data := make([]byte, info.Size())
	t := new(Table)
	if _, err := io.ReadFull(f, data); err != nil || t.UnmarshalBinary(data) != nil {
		return nil
	}
	if now := time.Now(); now.Sub(info.ModTime()) > touchAfter {
		os.Chtimes(path, now, now) // else it only looks older than it is
	}
	return t
}

// write stores an entry in one step.
func (c *Cache) write(path string, t *Table) error {
	data, err := t.MarshalBinary()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(c.dir, tempPrefix)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// trim deletes abandoned writes and, while the cache is over its limit, the entries that were used longest ago.
func (c *Cache) trim() {
	list, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	var entries []os.FileInfo
	total := int64(0)
	for _, e := range list {
		info, err := e.Info()
		switch {
		case err != nil:
		case strings.HasPrefix(e.Name(), tempPrefix):
			if time.Since(info.ModTime()) > staleTemp {
				os.Remove(filepath.Join(c.dir, e.Name()))
			}
		case strings.HasSuffix(e.Name(), cacheSuffix):
			entries = append(entries, info)
			total += info.Size()
		}
	}
	slices.SortFunc(entries, func(a, b os.FileInfo) int {
		return cmp.Or(a.ModTime().Compare(b.ModTime()), strings.Compare(a.Name(), b.Name()))
	})
	for _, info := range entries {
		if total <= c.Limit {
			return
		}
		if os.Remove(filepath.Join(c.dir, info.Name())) == nil {
			total -= info.Size()
		}
	}
}

// codePerEhFrame: with less than a byte of .eh_frame for this many bytes of code, most rows come from the code itself.
const codePerEhFrame = 64

// cacheKey names a file's table. A build id says which build a file is, but any file can carry any id, and a table made from
// one file must not serve another: so what the rows are made from is hashed too. That is .eh_frame, and the code
// where there is no build id or where .eh_frame does not describe most of it.
func cacheKey(f *objfile.File) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%d %s %d\n", tableVersion, f.BuildID, f.Size)
	code := executable(f)
	codeSize := uint64(0)
	for _, s := range code {
		binary.Write(h, binary.LittleEndian, []uint64{s.vaddr, s.offset, s.size})
		codeSize += s.size
	}
	data, addr, err := ehFrameData(f)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(h, "%d %d\n", addr, len(data))
	h.Write(data)
	if f.BuildID == "" || uint64(len(data)) < codeSize/codePerEhFrame {
		if err := hashCode(h, f, code); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// hashCode adds the executable segments.
func hashCode(h hash.Hash, f *objfile.File, code segments) error {
	for _, s := range code {
		for at := uint64(0); at < s.size; at += window {
			data, err := f.ReadVaddr(s.vaddr+at, min(window, s.size-at))
			if err != nil {
				return fmt.Errorf("%s: hashing code: %w", f.Name, err)
			}
			h.Write(data)
		}
	}
	return nil
}
