package analysis

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"bulkhead/internal/objfile"
)

// maxCache bounds the folder of summaries, in bytes: some 500 large libraries.
const maxCache = 512 << 20

// A Cache keeps summaries in a folder, by the content of the object, so that
// they serve every program and every machine. Any number of processes may use it
// at once: files are written under another name and put in place in one step.
type Cache struct {
	dir string
}

// OpenCache opens the cache in dir; "" means Bulkhead's folder in the user's
// cache directory ($XDG_CACHE_HOME).
func OpenCache(dir string) (*Cache, error) {
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		dir = filepath.Join(base, "bulkhead", "summaries")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &Cache{dir: dir}, nil
}

// summary returns the summary of the object at path, from the cache if it is
// there.
func (c *Cache) summary(path string, triggers []string) (*Summary, error) {
	if c == nil {
		return summarizeFile(path, triggers)
	}
	key, err := c.key(path, triggers)
	if err != nil {
		return nil, err
	}
	name := filepath.Join(c.dir, key+".summary")
	if data, err := os.ReadFile(name); err == nil {
		if s, err := decodeSummary(data); err == nil {
			return s, nil
		}
		os.Remove(name) // damaged: made anew below
	}
	s, err := summarizeFile(path, triggers)
	if err != nil {
		return nil, err
	}
	// A cache that cannot be written is one that does not help.
	if c.write(name, encodeSummary(s)) == nil {
		c.trim()
	}
	return s, nil
}

// key identifies the content of the file, this version of the analysis and what
// it looks for. The hash of the content is itself kept, by what stat(2) says of
// the file: a change of content changes the time of the inode's last change.
func (c *Cache) key(path string, triggers []string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s: %w", path, objfile.ErrNotELF)
	}
	content, err := c.contentHash(f, info)
	if err != nil {
		return "", fmt.Errorf("hash %s: %w", path, err)
	}
	h := sha256.New()
	h.Write(content)
	fmt.Fprintf(h, "%d\x00%s", summaryVersion, strings.Join(triggers, "\x00"))
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

func (c *Cache) contentHash(f *os.File, info os.FileInfo) ([]byte, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	var memo string
	if ok {
		var raw [48]byte
		for i, v := range []uint64{
			uint64(st.Dev), st.Ino, uint64(st.Size), uint64(st.Mtim.Nano()), uint64(st.Ctim.Nano()),
		} {
			binary.LittleEndian.PutUint64(raw[8*i:], v)
		}
		sum := sha256.Sum256(raw[:])
		memo = filepath.Join(c.dir, hex.EncodeToString(sum[:16])+".hash")
		// A file that changed a moment ago may change again within the clock's grain.
		if time.Since(time.Unix(0, st.Ctim.Nano())) < 2*time.Second {
			memo = ""
		} else if have, err := os.ReadFile(memo); err == nil && len(have) == sha256.Size {
			return have, nil
		}
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	sum := h.Sum(nil)
	if memo != "" {
		_ = c.write(memo, sum) // only saves time
	}
	return sum, nil
}

// write puts a file in place in one step.
func (c *Cache) write(name string, data []byte) error {
	f, err := os.CreateTemp(c.dir, ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// trim removes the oldest files while the folder is too large.
func (c *Cache) trim() {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	var files []os.FileInfo
	total := int64(0)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			files = append(files, info)
			total += info.Size()
		}
	}
	slices.SortFunc(files, func(a, b os.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, f := range files {
		if total <= maxCache {
			return
		}
		if os.Remove(filepath.Join(c.dir, f.Name())) == nil {
			total -= f.Size()
		}
	}
}
