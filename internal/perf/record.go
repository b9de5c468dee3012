package perf

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Kind is the type of a record.
type Kind uint8

const (
	// Map: a range became executable. Everything that was there before is gone.
	Map Kind = iota + 1
	// Fork: PID or TID is new, a copy of Parent.
	Fork
	// Exec: PID runs a new image; its mappings follow.
	Exec
	// Exit: the thread TID has ended.
	Exit
	// Lost: Count records found no room.
	Lost
)

// Record is one entry, in the PID namespace of the reader.
type Record struct {
	Kind     Kind
	PID, TID int
	Parent   int    // Fork: the parent process
	Time     uint64 // CLOCK_MONOTONIC, in nanoseconds
	Count    uint64 // Lost

	// Map only. The range is [Start, End), it shows the file from Offset on, all in bytes.
	Start, End, Offset uint64
	Major, Minor       uint32
	Inode, Generation  uint64
	// Path is what the kernel printed: a path in the process's view, "//anon", "[vdso]", "/memfd:x (deleted)".
	Path string
}

// trailer is what sample_id_all appends with PERF_SAMPLE_TID|PERF_SAMPLE_TIME: pid, tid, time.
const trailer = 4 + 4 + 8

// parse reads one record with its header; ok is false for kinds that nobody asked for.
func parse(data []byte) (r Record, ok bool) {
	order := binary.LittleEndian
	kind, misc := order.Uint32(data), order.Uint16(data[4:])
	body := data[8:]
	if len(body) < trailer+8 {
		return r, false
	}
	r.Time = order.Uint64(body[len(body)-8:])
	body = body[:len(body)-trailer]
	u32 := func(at int) uint32 { return order.Uint32(body[at:]) }
	u64 := func(at int) uint64 { return order.Uint64(body[at:]) }
	switch {
	case kind == unix.PERF_RECORD_MMAP2 && len(body) >= 64:
		r.Kind = Map
		r.Start, r.Offset = u64(8), u64(24)
		r.End = r.Start + u64(16)
		r.Major, r.Minor = u32(32), u32(36)
		r.Inode, r.Generation = u64(40), u64(48)
		name, _, _ := bytes.Cut(body[64:], []byte{0})
		r.Path = string(name)
	case kind == unix.PERF_RECORD_COMM && misc&unix.PERF_RECORD_MISC_COMM_EXEC != 0:
		r.Kind = Exec
	case kind == unix.PERF_RECORD_FORK && len(body) >= 16:
		// pid, ppid, tid, ptid
		r.Kind = Fork
		r.PID, r.Parent, r.TID = int(u32(0)), int(u32(4)), int(u32(8))
		return r, true
	case kind == unix.PERF_RECORD_EXIT && len(body) >= 16:
		r.Kind = Exit
		r.PID, r.TID = int(u32(0)), int(u32(8))
		return r, true
	case kind == unix.PERF_RECORD_LOST && len(body) >= 16:
		r.Kind, r.Count = Lost, u64(8)
		return r, true
	default:
		return r, false
	}
	r.PID, r.TID = int(u32(0)), int(u32(4))
	return r, true
}
