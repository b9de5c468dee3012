package bpf

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"
)

// Violation is a call that the policy does not allow, as the kernel part reports it. Its frames are valid until the next
// Read.
type Violation struct {
	enforceViolation // but its frames
	Frames           []Frame

	raw ringbuf.Record
}

// String returns the string that an argument pointed to when the call was made, for the arguments of which the kernel part
// keeps them: the first two. whole is false where it goes on.
func (v *Violation) String(address uint64, limit int) (s string, whole bool, err error) {
	for i := range v.Text {
		if v.Args[i] != address {
			continue
		}
		text := v.Text[i].Bytes[:min(v.Text[i].Length, uint32(len(v.Text[i].Bytes)))]
		if len(text) == 0 {
			break
		}
		s, whole = strings.CutSuffix(string(text), "\x00")
		if len(text) == len(v.Text[i].Bytes) { // cut off by the kernel, which always ends with a zero
			whole = false
		}
		return s[:min(len(s), limit)], whole && len(s) <= limit, nil
	}
	return "", false, errors.New("not kept")
}

// Read waits for the next violation.
func (e *Enforcer) Read(v *Violation) error {
	if err := e.violations.ReadInto(&v.raw); err != nil {
		return err
	}
	return v.decode(v.raw.RawSample)
}

// Flush makes Read return what is in the ring buffer now and then ErrFlushed.
func (e *Enforcer) Flush() error { return e.violations.Flush() }

func (v *Violation) decode(sample []byte) error {
	const fixed = int(unsafe.Offsetof(enforceViolation{}.Frames))
	if len(sample) < fixed {
		return fmt.Errorf("violation of %d bytes is too short", len(sample))
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&v.enforceViolation)), fixed), sample)
	if room := (len(sample) - fixed) / int(unsafe.Sizeof(Frame{})); int(v.Depth) > room {
		return fmt.Errorf("violation with %d frames has room for %d", v.Depth, room)
	}
	v.Frames = unsafe.Slice((*Frame)(unsafe.Pointer(unsafe.SliceData(sample[fixed:]))), v.Depth)
	return nil
}
