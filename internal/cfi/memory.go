package cfi

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// StackCopy is a captured piece of a stack: Data was at Base.
type StackCopy struct {
	Base uint64
	Data []byte
}

// ReadWord implements [Memory].
func (s StackCopy) ReadWord(addr uint64) (uint64, error) {
	at := addr - s.Base
	if addr < s.Base || at > uint64(len(s.Data)) || uint64(len(s.Data))-at < 8 {
		return 0, fmt.Errorf("stack copy %#x-%#x does not hold %#x", s.Base, s.Base+uint64(len(s.Data)), addr)
	}
	return binary.LittleEndian.Uint64(s.Data[at:]), nil
}

// ProcessMemory reads the memory of a live process through process_vm_readv, in chunks that it keeps: use one for each
// stop of the process.
type ProcessMemory struct {
	pid   int
	chunk [2]processChunk // words of a stack and of an alternate stack or a caller's far frame
	next  int
}

type processChunk struct {
	base uint64
	data []byte
}

const processChunkSize = 4096

// NewProcessMemory returns a reader for the process with that id.
func NewProcessMemory(pid int) *ProcessMemory { return &ProcessMemory{pid: pid} }

// ReadWord implements [Memory].
func (p *ProcessMemory) ReadWord(addr uint64) (uint64, error) {
	for i := range p.chunk {
		c := &p.chunk[i]
		if at := addr - c.base; at < uint64(len(c.data)) && uint64(len(c.data))-at >= 8 {
			return binary.LittleEndian.Uint64(c.data[at:]), nil
		}
	}
	c := &p.chunk[p.next]
	p.next = (p.next + 1) % len(p.chunk)
	if c.data == nil {
		c.data = make([]byte, 0, processChunkSize)
	}
	// Up to the end of the page after the word's: a walk goes upwards, and the kernel stops at an unmapped page.
	c.base, c.data = addr, c.data[:processChunkSize]
	n, err := readProcess(p.pid, addr, c.data)
	c.data = c.data[:max(n, 0)]
	if n < 8 {
		return 0, fmt.Errorf("reading process %d at %#x: %w", p.pid, addr, err)
	}
	return binary.LittleEndian.Uint64(c.data), nil
}

// readProcess reads what is mapped from addr on, up to len(buf) bytes.
func readProcess(pid int, addr uint64, buf []byte) (int, error) {
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(len(buf))
	// One remote vector for each page: a transfer is partial only between vectors.
	var remote []unix.RemoteIovec
	for at, left := addr, len(buf); left > 0; {
		n := min(left, int(4096-at%4096))
		remote = append(remote, unix.RemoteIovec{Base: uintptr(at), Len: n})
		at, left = at+uint64(n), left-n
	}
	n, err := unix.ProcessVMReadv(pid, local, remote, 0)
	if err == nil && n < 8 {
		err = unix.EFAULT
	}
	return n, err
}
