package perf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// bufferPages is the size of one CPU's ring: a few thousand records.
const bufferPages = 64

// Reader holds a ring buffer for each CPU. Drain and Close are not safe for concurrent use.
type Reader struct {
	rings []*ring
	wake  int           // eventfd
	poll  []unix.PollFd // the rings and wake
	buf   []byte
}

type ring struct {
	fd   int
	mem  []byte
	meta *unix.PerfEventMmapPage
	data []byte
}

// Open starts recording on all CPUs. It needs CAP_PERFMON or perf_event_paranoid below 0.
func Open() (*Reader, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count CPUs: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	r := &Reader{wake: wake, poll: []unix.PollFd{{Fd: int32(wake), Events: unix.POLLIN}}}
	for cpu := range cpus {
		ring, err := openRing(cpu)
		if errors.Is(err, unix.ENODEV) { // not online
			continue
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("record mappings on CPU %d: %w", cpu, err), r.Close())
		}
		r.rings = append(r.rings, ring)
		r.poll = append(r.poll, unix.PollFd{Fd: int32(ring.fd), Events: unix.POLLIN})
	}
	return r, nil
}

func openRing(cpu int) (*ring, error) {
	attr := unix.PerfEventAttr{
		Type:        unix.PERF_TYPE_SOFTWARE,
		Config:      unix.PERF_COUNT_SW_DUMMY,
		Size:        uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Sample_type: unix.PERF_SAMPLE_TID | unix.PERF_SAMPLE_TIME,
		Bits: unix.PerfBitMmap | unix.PerfBitMmap2 | unix.PerfBitComm | unix.PerfBitCommExec | unix.PerfBitTask |
			unix.PerfBitSampleIDAll | unix.PerfBitUseClockID | unix.PerfBitWatermark,
		Wakeup:  1,
		Clockid: unix.CLOCK_MONOTONIC,
	}
	fd, err := unix.PerfEventOpen(&attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("perf_event_open", err)
	}
	page := os.Getpagesize()
	mem, err := unix.Mmap(fd, 0, (1+bufferPages)*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("mmap", err)
	}
	return &ring{
		fd: fd, mem: mem, data: mem[page:],
		meta: (*unix.PerfEventMmapPage)(unsafe.Pointer(&mem[0])),
	}, nil
}

// Close ends recording.
func (r *Reader) Close() error {
	var errs []error
	for _, ring := range r.rings {
		errs = append(errs, unix.Munmap(ring.mem), unix.Close(ring.fd))
	}
	r.rings = nil
	return errors.Join(append(errs, unix.Close(r.wake))...)
}

// Interrupt makes this and all later calls of Wait return at once. Safe to call from any goroutine.
func (r *Reader) Interrupt() error {
	_, err := unix.Write(r.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	return os.NewSyscallError("write", err)
}

// Wait returns when there are records, or after the timeout.
func (r *Reader) Wait(timeout time.Duration) error {
	_, err := unix.Poll(r.poll, int(timeout.Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return os.NewSyscallError("poll", err)
	}
	return nil
}

// Drain adds all records that the kernel has written so far and returns them, with those given, in the order of their
// times.
func (r *Reader) Drain(records []Record) []Record {
	for _, ring := range r.rings {
		records = ring.drain(records, &r.buf)
	}
	slices.SortStableFunc(records, func(a, b Record) int { return cmp.Compare(a.Time, b.Time) })
	return records
}

func (r *ring) drain(records []Record, buf *[]byte) []Record {
	head := atomic.LoadUint64(&r.meta.Data_head)
	tail := r.meta.Data_tail
	for tail < head {
		header := r.read(tail, 8, buf)
		size := uint64(binary.LittleEndian.Uint16(header[6:]))
		if size < 8 || size > head-tail {
			break // never written by the kernel
		}
		if rec, ok := parse(r.read(tail, size, buf)); ok {
			records = append(records, rec)
		}
		tail += size
	}
	atomic.StoreUint64(&r.meta.Data_tail, head)
	return records
}

// read copies n bytes at a position that only grows; the ring's size is a power of two.
func (r *ring) read(at, n uint64, buf *[]byte) []byte {
	*buf = slices.Grow((*buf)[:0], int(n))[:n]
	start := at % uint64(len(r.data))
	copied := copy(*buf, r.data[start:])
	copy((*buf)[copied:], r.data)
	return *buf
}
