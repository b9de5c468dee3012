package objfile

import (
	"bytes"
	"compress/zlib"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
)

// pread fills p from the file offset off.
func (f *File) pread(p []byte, off uint64) error {
	if len(p) == 0 {
		return nil
	}
	n, err := f.r.ReadAt(p, int64(off))
	if n == len(p) {
		return nil
	}
	if err == io.EOF || err == nil {
		err = io.ErrUnexpectedEOF // it was longer when we opened it
	}
	return fmt.Errorf("%s: reading %d bytes at offset %#x: %w", f.Name, len(p), off, err)
}

// bytesAt reads n bytes at a file offset; what names them in an error.
func (f *File) bytesAt(off, n uint64, what string) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	if n > uint64(f.Size) || off > uint64(f.Size)-n {
		return nil, f.malformed(off, "%s: %d bytes reach beyond the end of the file", what, n)
	}
	if n > maxRead {
		return nil, f.malformed(off, "%s: %d bytes, more than the limit of %d", what, n, maxRead)
	}
	if end := off + n; end <= uint64(len(f.head)) {
		return f.head[off:end:end], nil
	}
	b := make([]byte, n)
	return b, f.pread(b, off)
}

// chunkSize is the unit in which small reads are cached: bytes.
const chunkSize = 64 << 10

// A chunkCache holds pieces of the file for the many small reads of pointers,
// strings and version records. It forgets everything when it is full.
type chunkCache struct {
	mu     sync.Mutex
	chunks map[uint64][]byte
}

const maxChunks = 512 // 32 MiB

// cached returns n bytes at off, without a copy when one chunk holds them. The
// caller has checked that they are inside the file.
func (f *File) cached(off, n uint64) ([]byte, error) {
	first, last := off/chunkSize, (off+n-1)/chunkSize
	if n == 0 || first != last {
		b := make([]byte, n)
		return b, f.pread(b, off)
	}
	c := &f.chunks
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.chunks[first]
	if !ok {
		start := first * chunkSize
		b = make([]byte, min(chunkSize, uint64(f.Size)-start))
		if err := f.pread(b, start); err != nil {
			return nil, err
		}
		if c.chunks == nil || len(c.chunks) >= maxChunks {
			c.chunks = make(map[uint64][]byte)
		}
		c.chunks[first] = b
	}
	start := off - first*chunkSize
	return b[start : start+n : start+n], nil
}

// Bytes returns the contents of a section of f, inflated if it is compressed,
// and keeps them. An SHT_NOBITS section has none.
func (f *File) Bytes(s *Section) ([]byte, error) {
	if s.Type == elf.SHT_NOBITS {
		return nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if b, ok := f.contents[s]; ok {
		return b, nil
	}
	b, err := f.bytesAt(s.Offset, s.Size, "section "+s.Name)
	if err == nil && s.Flags&elf.SHF_COMPRESSED != 0 {
		b, err = f.inflate(s, b)
	}
	if err != nil {
		return nil, err
	}
	if f.contents == nil {
		f.contents = make(map[*Section][]byte)
	}
	f.contents[s] = b
	return b, nil
}

// inflate decodes an SHF_COMPRESSED section (gABI, Section Compression).
func (f *File) inflate(s *Section, b []byte) ([]byte, error) {
	hdr, size := 24, uint64(0)
	if f.Class == 32 {
		hdr = 12
	}
	if len(b) < hdr {
		return nil, f.malformed(s.Offset, "section %s: compression header cut short", s.Name)
	}
	if f.Class == 32 {
		size = uint64(le.Uint32(b[4:]))
	} else {
		size = le.Uint64(b[8:])
	}
	if t := elf.CompressionType(le.Uint32(b)); t != elf.COMPRESS_ZLIB {
		return nil, &UnsupportedError{f.Name, fmt.Sprintf("section %s: compression %v", s.Name, t)}
	}
	if size > maxRead {
		return nil, f.malformed(s.Offset, "section %s: %d bytes when inflated, more than the limit of %d", s.Name, size, maxRead)
	}
	z, err := zlib.NewReader(bytes.NewReader(b[hdr:]))
	if err != nil {
		return nil, f.malformed(s.Offset, "section %s: %v", s.Name, err)
	}
	out, err := readBounded(z, size)
	if err != nil {
		return nil, f.malformed(s.Offset, "section %s: %v", s.Name, err)
	}
	if uint64(len(out)) != size {
		return nil, f.malformed(s.Offset, "section %s: %d bytes when inflated, its header says %d", s.Name, len(out), size)
	}
	return out, nil
}

var errTooLong = errors.New("inflates to more than allowed")

// readBounded reads all of r, and fails when that is more than limit bytes. It
// does not allocate limit before the bytes are there.
func readBounded(r io.Reader, limit uint64) ([]byte, error) {
	var buf bytes.Buffer
	n, err := buf.ReadFrom(io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if uint64(n) > limit {
		return nil, errTooLong
	}
	return buf.Bytes(), nil
}

// load returns the PT_LOAD that holds vaddr in memory. Where several overlap the
// last one wins, since it is mapped over the others.
func (f *File) load(vaddr uint64) *Segment {
	for i := len(f.loads) - 1; i >= 0; i-- {
		if s := &f.loads[i]; vaddr-s.Vaddr < s.Memsz {
			return s
		}
	}
	return nil
}

// ReadVaddr returns n bytes of the loaded image, before relocation, at a virtual
// address. Bytes that the file does not hold (.bss) are zero. The slice may be
// shared. It is an error if some of the bytes are in no PT_LOAD, or if n is more
// than 256 MiB.
func (f *File) ReadVaddr(vaddr, n uint64) ([]byte, error) {
	s := f.load(vaddr)
	if s == nil {
		return nil, f.malformed(vaddr, "%d bytes at an address that is in no segment", n)
	}
	pos := vaddr - s.Vaddr
	if pos <= s.Filesz && n <= s.Filesz-pos {
		return f.fileBytes(s.Offset+pos, n, vaddr)
	}
	if n > s.Memsz-pos {
		return nil, f.malformed(vaddr, "%d bytes reach beyond the end of the segment", n)
	}
	if n > maxZero {
		return nil, f.malformed(vaddr, "%d bytes, more than the limit of %d", n, maxZero)
	}
	b := make([]byte, n)
	if pos < s.Filesz {
		if s.Offset+s.Filesz > uint64(f.Size) {
			return nil, f.malformed(vaddr, "the segment reaches beyond the end of the file")
		}
		return b, f.pread(b[:s.Filesz-pos], s.Offset+pos)
	}
	return b, nil
}

// table is ReadVaddr for what must be in the file, so that its size is bounded
// by the file's.
func (f *File) table(vaddr, n uint64, what string) ([]byte, error) {
	off, err := f.tableOffset(vaddr, n, what)
	if err != nil {
		return nil, err
	}
	return f.fileBytes(off, n, vaddr)
}

// tableOffset returns where in the file the n bytes at vaddr are.
func (f *File) tableOffset(vaddr, n uint64, what string) (uint64, error) {
	s := f.load(vaddr)
	if s == nil || vaddr-s.Vaddr > s.Filesz || n > s.Filesz-(vaddr-s.Vaddr) {
		return 0, f.malformed(vaddr, "%s: %d bytes that are in no segment", what, n)
	}
	return s.Offset + (vaddr - s.Vaddr), nil
}

// tableLimit returns how many bytes of the file follow vaddr in its segment.
func (f *File) tableLimit(vaddr uint64) uint64 {
	s := f.load(vaddr)
	if s == nil || vaddr-s.Vaddr >= s.Filesz {
		return 0
	}
	off := s.Offset + (vaddr - s.Vaddr)
	if off >= uint64(f.Size) {
		return 0
	}
	return min(s.Filesz-(vaddr-s.Vaddr), uint64(f.Size)-off)
}

func (f *File) fileBytes(off, n, vaddr uint64) ([]byte, error) {
	if n > uint64(f.Size) || off > uint64(f.Size)-n {
		return nil, f.malformed(vaddr, "%d bytes reach beyond the end of the file", n)
	}
	if n > maxRead {
		return nil, f.malformed(vaddr, "%d bytes, more than the limit of %d", n, maxRead)
	}
	return f.cached(off, n)
}

// VaddrToOffset returns the file offset of a virtual address. An executable
// segment is preferred. It is false for .bss and for what is in no PT_LOAD.
func (f *File) VaddrToOffset(vaddr uint64) (uint64, bool) {
	return f.translate(func(s *Segment) (uint64, bool) {
		return s.Offset + (vaddr - s.Vaddr), vaddr-s.Vaddr < s.Filesz
	})
}

// OffsetToVaddr returns the virtual address at which a file offset is loaded. An
// executable segment is preferred, since linkers map the page between two
// segments twice.
func (f *File) OffsetToVaddr(off uint64) (uint64, bool) {
	return f.translate(func(s *Segment) (uint64, bool) {
		return s.Vaddr + (off - s.Offset), off-s.Offset < s.Filesz
	})
}

func (f *File) translate(in func(*Segment) (uint64, bool)) (to uint64, ok bool) {
	for i := range f.loads {
		s := &f.loads[i]
		v, hit := in(s)
		if hit && s.Flags&elf.PF_X != 0 {
			return v, true
		}
		if hit && !ok {
			to, ok = v, true
		}
	}
	return to, ok
}

// cstring returns the NUL-terminated string at off. It is cut at maxName bytes, so
// that overlapping names cannot make us scan a large table again and again.
func cstring(table string, off uint64) (string, bool) {
	if off >= uint64(len(table)) {
		return "", false
	}
	s := table[off:]
	if len(s) > maxName {
		s = s[:maxName]
	}
	if i := strings.IndexByte(s, 0); i >= 0 {
		return s[:i], true
	}
	return s, len(s) == maxName
}
