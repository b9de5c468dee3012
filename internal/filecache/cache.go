package filecache

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// DefaultLimit is how many bytes a cache keeps.
const DefaultLimit = 512 << 20

const (
	// staleTemp is the age at which an unfinished write is taken for abandoned, and touchAfter that at which a use is
	// recorded in the file's time.
	staleTemp  = time.Hour
	touchAfter = time.Hour
	// blockSize is what the smallest entry takes on a disk.
	blockSize = 4096
)

// A Cache keeps entries, each a file, in a folder. An entry appears by rename, so it is complete, and ends in a checksum,
// so it is what was put.
type Cache struct {
	dir   string
	Limit int64 // bytes; the least recently used entries go first

	untrimmed atomic.Int64 // bytes written until the next look at the folder's size
}

// Open opens or creates the cache in dir; "" means the folder bulkhead/NAME in the user's cache directory
// ($XDG_CACHE_HOME or ~/.cache).
func Open(dir, name string) (*Cache, error) {
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("finding the cache directory: %w", err)
		}
		dir = filepath.Join(user, "bulkhead", name)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating a cache: %w", err)
	}
	return &Cache{dir: dir, Limit: DefaultLimit}, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sumSize = 4

// Get returns the content of an entry, nil when there is none or it is damaged.
func (c *Cache) Get(key string) []byte {
	path := filepath.Join(c.dir, key)
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() < sumSize || info.Size() > c.Limit {
		return nil
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil
	}
	data, sum := data[:len(data)-sumSize], data[len(data)-sumSize:]
	if crc32.Checksum(data, castagnoli) != binary.LittleEndian.Uint32(sum) {
		return nil
	}
	if now := time.Now(); now.Sub(info.ModTime()) > touchAfter {
		_ = os.Chtimes(path, now, now) // else it only looks older than it is
	}
	return data
}

// Put stores an entry. A cache that cannot be written is one that does not help: its users need not look at the error.
func (c *Cache) Put(key string, data []byte) error {
	err := Replace(filepath.Join(c.dir, key), func(w io.Writer) error {
		_, err := w.Write(data)
		if err == nil {
			_, err = w.Write(binary.LittleEndian.AppendUint32(nil, crc32.Checksum(data, castagnoli)))
		}
		return err
	})
	if err == nil && c.untrimmed.Add(-onDisk(int64(len(data)))) < 0 {
		c.untrimmed.Store(c.Limit / 16)
		c.trim()
	}
	return err
}

// onDisk is what a file of n bytes takes on a disk.
func onDisk(n int64) int64 { return (n + blockSize - 1) &^ (blockSize - 1) }

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
		case err != nil || !info.Mode().IsRegular():
		case strings.HasPrefix(e.Name(), "."):
			if time.Since(info.ModTime()) > staleTemp {
				os.Remove(filepath.Join(c.dir, e.Name()))
			}
		default:
			entries = append(entries, info)
			total += onDisk(info.Size())
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
			total -= onDisk(info.Size())
		}
	}
}
