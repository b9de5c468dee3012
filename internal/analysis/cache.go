package analysis

import (
	"crypto/sha256"
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
// there, and the hash of the content that it is of. A nil cache does without both,
// as does a file that is too large to hash: of that only what is loaded is read.
func (c *Cache) summary(path string, triggers []string) (*Summary, contentHash, error) {
	f, info, err := openRegular(path)
	if err != nil {
		return nil, contentHash{}, err
	}
	defer f.Close()
	if c == nil || info.Size() > maxHashed {
		s, err := summarizeFile(f, info, triggers)
		return s, contentHash{}, err
	}
	content, err := c.content(f, info)
	if err != nil {
		return nil, content, err
	}
	h := sha256.New()
	h.Write(content[:])
	fmt.Fprintf(h, "%d\x00%s", summaryVersion, strings.Join(triggers, "\x00"))
	key := hex.EncodeToString(h.Sum(nil)[:16]) + ".summary"
	if data := c.files.Get(key); data != nil {
		if s, err := decodeSummary(data); err == nil {
			return s, content, nil
		} // a damaged one is made anew
	}
	s, err := summarizeFile(f, info, triggers)
	if err != nil {
		return nil, content, err
	}
	if after, err := f.Stat(); err == nil && identity(after) == identity(info) {
		_ = c.files.Put(key, encodeSummary(s)) // only saves time
	}
	return s, content, nil
}

func summarizeFile(f *os.File, info os.FileInfo, triggers []string) (*Summary, error) {
	o, err := objfile.NewFile(f, info.Size(), f.Name())
	if err != nil {
		return nil, err
	}
	return Summarize(o, triggers)
}

func openRegular(path string) (*os.File, os.FileInfo, error) {
	// O_NONBLOCK: a FIFO in place of the file must not hang us.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", path, objfile.ErrNotELF)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// A contentHash identifies the content of a file.
type contentHash [sha256.Size]byte

// maxHashed bounds the files that are hashed, in bytes. The largest programs have
// 1 GiB with their debugging information; a sparse file can have any size.
const maxHashed = 4 << 30

// contentOf returns the hash of the content of the file at path.
func (c *Cache) contentOf(path string) (contentHash, error) {
	f, info, err := openRegular(path)
	if err != nil {
		return contentHash{}, err
	}
	defer f.Close()
	if info.Size() > maxHashed {
		return contentHash{}, fmt.Errorf("%s: more than %d bytes", path, int64(maxHashed))
	}
	return c.content(f, info)
}

// settled is the age at which a file counts as not being written any more: one
// that changed a moment ago may change again within the clock's grain.
const settled = 2 * time.Second

// content hashes a file. The hash is itself kept, by what stat(2) says of the
// file: a change of content changes the time of the inode's last change.
func (c *Cache) content(f *os.File, info os.FileInfo) (sum contentHash, err error) {
	id := identity(info)
	memo := ""
	if id != (fileIdentity{}) && time.Since(time.Unix(0, id.ctime)) > settled {
		key := sha256.Sum256(fmt.Appendf(nil, "%d", id))
		memo = hex.EncodeToString(key[:16]) + ".hash"
		if copy(sum[:], c.files.Get(memo)) == len(sum) {
			return sum, nil
		}
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, fmt.Errorf("hash %s: %w", f.Name(), err)
	}
	copy(sum[:], h.Sum(nil))
	if after, err := f.Stat(); memo != "" && err == nil && identity(after) == id {
		_ = c.files.Put(memo, sum[:]) // only saves time
	}
	return sum, nil
}

// A fileIdentity is what stat(2) says of a file's content.
type fileIdentity struct {
	dev, ino, size uint64
	mtime, ctime   int64 // in nanoseconds
}

func identity(info os.FileInfo) fileIdentity {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileIdentity{}
	}
	return fileIdentity{st.Dev, st.Ino, uint64(st.Size), st.Mtim.Nano(), st.Ctim.Nano()}
}
