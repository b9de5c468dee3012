package analysis

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"bulkhead/internal/filecache"
	"bulkhead/internal/objfile"
)

// A Cache keeps summaries by the content of the object, so that they serve every
// program and every machine.
type Cache struct {
	files *filecache.Cache
}

// OpenCache opens or creates the cache in dir; "" means Bulkhead's folder in the
// user's cache directory.
func OpenCache(dir string) (*Cache, error) {
	files, err := filecache.Open(dir, "summaries")
	if err != nil {
		return nil, err
	}
	return &Cache{files}, nil
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
	key += ".summary"
	if data := c.files.Get(key); data != nil {
		if s, err := decodeSummary(data); err == nil {
			return s, nil
		} // a damaged one is made anew
	}
	s, err := summarizeFile(path, triggers)
	if err != nil {
		return nil, err
	}
	_ = c.files.Put(key, encodeSummary(s)) // only saves time
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
		memo = hex.EncodeToString(sum[:16]) + ".hash"
		// A file that changed a moment ago may change again within the clock's grain.
		if time.Since(time.Unix(0, st.Ctim.Nano())) < 2*time.Second {
			memo = ""
		} else if have := c.files.Get(memo); len(have) == sha256.Size {
			return have, nil
		}
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	sum := h.Sum(nil)
	if memo != "" {
		_ = c.files.Put(memo, sum) // only saves time
	}
	return sum, nil
}
