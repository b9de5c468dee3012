package ptrace

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	pageSize = 4096
	// stackChunk is what is read of a stack at once: most walks end within it.
	stackChunk = 1024
)

// Memory reads the memory of a stopped thread through process_vm_readv(2). It keeps what it has read until the next stop.
type Memory struct {
	tid    int
	chunks [2]chunk // of a stack, and of an alternate one or a caller's far frame
	next   int
}

type chunk struct {
	base uint64
	size int // 0: nothing
	data [stackChunk]byte
}

// reset forgets what was read: the thread has run since.
func (m *Memory) reset(tid int) {
	m.tid = tid
	m.chunks[0].size, m.chunks[1].size = 0, 0
}

// ReadWord returns the 8 bytes at an address as a little-endian number. It implements cfi.Memory.
func (m *Memory) ReadWord(addr uint64) (uint64, error) {
	for i := range m.chunks {
		c := &m.chunks[i]
		if at := addr - c.base; at < uint64(c.size) && uint64(c.size)-at >= 8 {
			return binary.LittleEndian.Uint64(c.data[at:]), nil
		}
	}
	c := &m.chunks[m.next]
	m.next ^= 1
	c.base, c.size = addr, 0
	n, err := readMemory(m.tid, addr, c.data[:])
	if n < 8 {
		return 0, fmt.Errorf("read thread %d at %#x: %w", m.tid, addr, err)
	}
	c.size = n
	return binary.LittleEndian.Uint64(c.data[:]), nil
}

// ReadString returns the bytes at an address up to a zero byte, at most limit of them; whole is false where more follow.
func (m *Memory) ReadString(addr uint64, limit int) (s string, whole bool, err error) {
	return ReadString(m.tid, addr, limit)
}

// ReadString does the same for a thread that need not be stopped, nor traced.
func ReadString(tid int, addr uint64, limit int) (s string, whole bool, err error) {
	buf := make([]byte, limit)
	n, err := readMemory(tid, addr, buf)
	if n <= 0 {
		return "", false, fmt.Errorf("read thread %d at %#x: %w", tid, addr, err)
	}
	for i, b := range buf[:n] {
		if b == 0 {
			return string(buf[:i]), true, nil
		}
	}
	return string(buf[:n]), false, nil
}

// readMemory reads what is mapped from addr on, up to len(buf) bytes. The error is for nothing at all.
func readMemory(tid int, addr uint64, buf []byte) (int, error) {
	// One remote vector for each page: a transfer is partial only between vectors.
	var remote [8]unix.RemoteIovec
	vectors := 0
	for at, left := addr, len(buf); left > 0 && vectors < len(remote); vectors++ {
		n := min(left, int(pageSize-at%pageSize))
		remote[vectors] = unix.RemoteIovec{Base: uintptr(at), Len: n}
		at, left = at+uint64(n), left-n
	}
	local := unix.Iovec{Base: &buf[0], Len: uint64(len(buf))}
	n, _, e := unix.RawSyscall6(unix.SYS_PROCESS_VM_READV, uintptr(tid), uintptr(unsafe.Pointer(&local)), 1,
		uintptr(unsafe.Pointer(&remote[0])), uintptr(vectors), 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

func writeMemory(tid int, addr uint64, data []byte) error {
	local := []unix.Iovec{{Base: &data[0], Len: uint64(len(data))}}
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(data)}}
	n, err := unix.ProcessVMWritev(tid, local, remote, 0)
	if err == nil && n < len(data) {
		err = unix.EFAULT
	}
	return err
}
