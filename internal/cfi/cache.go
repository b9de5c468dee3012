package cfi

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"os"

	"bulkhead/internal/filecache"
	"bulkhead/internal/objfile"
)

// cacheName is the folder below bulkhead in the user's cache directory.
const cacheName = "cfi-v1"

const cacheSuffix = ".cfi"

// Cache keeps tables of files. A damaged one is built anew.
type Cache struct {
	files *filecache.Cache
}

// OpenCache opens or creates the cache in dir; "" means Bulkhead's folder in the user's cache directory.
func OpenCache(dir string) (*Cache, error) {
	files, err := filecache.Open(dir, cacheName)
	if err != nil {
		return nil, err
	}
	return &Cache{files}, nil
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
	return c.load(f, key)
}

// Open is Load for a file that need not be read if it was before: its key is kept too, by what stat(2) says of it.
func (c *Cache) Open(file *os.File, path string) (*Table, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	known := filecache.FileKey(info)
	if c != nil && known != "" {
		known += fmt.Sprintf("-%d.key", tableVersion)
		if key := c.files.Get(known); key != nil {
			if t := c.get(string(key)); t != nil {
				return t, nil
			}
		}
	}
	f, err := objfile.NewFile(file, info.Size(), path)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return Build(f)
	}
	key, err := cacheKey(f)
	if err != nil {
		return nil, err
	}
	t, err := c.load(f, key)
	if err == nil && known != "" {
		_ = c.files.Put(known, []byte(key))
	}
	return t, err
}

func (c *Cache) load(f *objfile.File, key string) (*Table, error) {
	if t := c.get(key); t != nil {
		return t, nil
	}
	t, err := Build(f)
	if err != nil {
		return nil, err
	}
	if data, err := t.MarshalBinary(); err == nil {
		_ = c.files.Put(key+cacheSuffix, data)
	}
	return t, nil
}

// get returns the table with a key, nil if there is none.
func (c *Cache) get(key string) *Table {
	t := new(Table)
	if data := c.files.Get(key + cacheSuffix); data == nil || t.UnmarshalBinary(data) != nil {
		return nil
	}
	return t
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
