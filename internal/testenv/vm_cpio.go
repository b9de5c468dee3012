package testenv

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// cpio writes an archive in the "newc" format that the kernel unpacks as its
// initial RAM file system (Documentation/driver-api/early-userspace/buffer-format).
// Paths are relative to the root; the folders above a path are made on the way.
// The first error sticks and is returned by close.
type cpio struct {
	w    *bufio.Writer
	made map[string]bool
	ino  int
	err  error
}

func newCPIO(w io.Writer) *cpio {
	return &cpio{w: bufio.NewWriterSize(w, 1<<20), made: map[string]bool{"": true}}
}

// File type bits of st_mode, as the format stores them.
const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
)

// tree adds a file, or a folder with all below it, as guest.
func (c *cpio) tree(guest, host string) {
	host, err := filepath.EvalSymlinks(host)
	if err != nil {
		c.fail(err)
		return
	}
	c.fail(filepath.WalkDir(host, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(host, name)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			c.dir(path.Join(guest, rel))
		} else {
			c.file(path.Join(guest, rel), name)
		}
		return c.err
	}))
}

// file adds the file at host as guest, following symbolic links.
func (c *cpio) file(guest, host string) {
	if c.err != nil {
		return
	}
	in, err := os.Open(host)
	if err != nil {
		c.fail(err)
		return
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		c.fail(err)
		return
	}
	if !info.Mode().IsRegular() {
		c.fail(fmt.Errorf("pack %s: not a regular file", host))
		return
	}
	c.entry(guest, cpioFile|uint32(info.Mode().Perm()), info.Size(), in)
}

func (c *cpio) bytes(guest string, mode uint32, content []byte) {
	c.entry(guest, cpioFile|mode, int64(len(content)), strings.NewReader(string(content)))
}

// dir adds a folder and those above it, once each.
func (c *cpio) dir(guest string) {
	guest = clean(guest)
	if c.made[guest] {
		return
	}
	c.dir(path.Dir(guest))
	c.made[guest] = true
	c.entry(guest, cpioDir|0o755, 0, strings.NewReader(""))
}

func clean(guest string) string {
	return strings.TrimPrefix(path.Clean("/"+guest), "/")
}

// entry writes one header, name and content, each padded to 4 bytes.
func (c *cpio) entry(guest string, mode uint32, size int64, content io.Reader) {
	guest = clean(guest)
	if mode&cpioFile == cpioFile {
		c.dir(path.Dir(guest))
	}
	if c.err != nil {
		return
	}
	if size > 1<<31 {
		c.fail(fmt.Errorf("pack %s: %d bytes are too many for a RAM disk", guest, size))
		return
	}
	c.ino++
	const uid, gid, links, mtime, major, minor, check = 0, 0, 1, 0, 0, 0, 0
	fmt.Fprintf(c.w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		c.ino, mode, uid, gid, links, mtime, size, major, minor, major, minor, len(guest)+1, check)
	const header = 110
	c.w.WriteString(guest)
	c.pad(1, header+int64(len(guest))+1)
	n, err := io.Copy(c.w, content)
	if err == nil && n != size {
		err = fmt.Errorf("pack %s: %w after %d of %d bytes", guest, io.ErrUnexpectedEOF, n, size)
	}
	c.fail(err)
	c.pad(0, size)
}

// pad writes least zero bytes and as many more as bring written to a multiple of 4.
func (c *cpio) pad(least int, written int64) {
	c.w.Write(make([]byte, least+int(-written&3)))
}

func (c *cpio) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// close writes the trailer. The bufio.Writer keeps its first error for Flush.
func (c *cpio) close() error {
	c.entry("TRAILER!!!", 0, 0, strings.NewReader(""))
	return errors.Join(c.err, c.w.Flush())
}
