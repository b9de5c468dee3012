package analysis

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"sort"

	"bulkhead/internal/objfile"
)

// maxImage bounds what is read of one object: the largest browsers' libraries
// have 200 MiB of code and data.
const maxImage = 1 << 30

// An image is an object's loadable bytes at their link-time addresses.
type image struct {
	parts []part // sorted by addr
}

// A part is one PT_LOAD segment.
type part struct {
	addr  uint64
	data  []byte // bytes of the file; the rest up to end is zero
	end   uint64
	exec  bool
	write bool
}

func readImage(f *objfile.File) (*image, error) {
	m := new(image)
	var total uint64
	for _, s := range f.Segments {
		if s.Type != elf.PT_LOAD || s.Memsz == 0 {
			continue
		}
		if total += s.Filesz; total > maxImage {
			return nil, fmt.Errorf("read %s: more than %d bytes to load", f.Name, maxImage)
		}
		p := part{addr: s.Vaddr, end: s.Vaddr + s.Memsz, exec: s.Flags&elf.PF_X != 0, write: s.Flags&elf.PF_W != 0}
		if s.Filesz > 0 {
			data, err := f.ReadVaddr(s.Vaddr, s.Filesz)
			if err != nil {
				return nil, err
			}
			p.data = data
		}
		m.parts = append(m.parts, p)
	}
	sort.Slice(m.parts, func(i, j int) bool { return m.parts[i].addr < m.parts[j].addr })
	return m, nil
}

// at returns the part that holds addr.
func (m *image) at(addr uint64) *part {
	for i := range m.parts {
		if p := &m.parts[i]; addr >= p.addr && addr < p.end {
			return p
		}
	}
	return nil
}

func (m *image) isCode(addr uint64) bool {
	p := m.at(addr)
	return p != nil && p.exec
}

// bytes returns the file's bytes from addr on, to the end of the part.
func (m *image) bytes(addr uint64) []byte {
	p := m.at(addr)
	if p == nil || addr-p.addr >= uint64(len(p.data)) {
		return nil
	}
	return p.data[addr-p.addr:]
}

// word reads the 8 bytes at addr; what no file bytes back reads as zero.
func (m *image) word(addr uint64) uint64 {
	b := m.bytes(addr)
	if len(b) < 8 {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

// int32 reads the 4 bytes at addr.
func (m *image) int32(addr uint64) (int32, bool) {
	b := m.bytes(addr)
	if len(b) < 4 {
		return 0, false
	}
	return int32(binary.LittleEndian.Uint32(b)), true
}

// cstring reads a NUL-terminated string of at most 4095 bytes.
func (m *image) cstring(addr uint64) (string, bool) {
	b := m.bytes(addr)
	for i := range min(len(b), 4096) {
		if b[i] == 0 {
			return string(b[:i]), true
		}
	}
	return "", false
}
