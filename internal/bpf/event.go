package bpf

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"
)

// The types and constants that the kernel part and the packages above share, under their Go names.
type (
	ObjectID     uint32
	Frame        = traceFrame
	Registers    = traceRegisters
	CountKey     = traceCountKey
	Event        = traceEvent
	EventKind    = traceEventKind
	CaptureFlags = traceCaptureFlags
	RegionFlags  = traceRegionFlags
	WalkEnd      = traceWalkEnd
	Tally        = traceTally
)

const (
	ObjectUnknown   = ObjectID(traceObjectIdOBJECT_UNKNOWN)
	ObjectAnonymous = ObjectID(traceObjectIdOBJECT_ANONYMOUS)
	ObjectVDSO      = ObjectID(traceObjectIdOBJECT_VDSO)

	RegionConduit = traceRegionFlagsREGION_CONDUIT
	RegionBase    = traceRegionFlagsREGION_BASE

	EventProgram = traceEventKindEVENT_PROGRAM
	EventStack   = traceEventKindEVENT_STACK
	EventCapture = traceEventKindEVENT_CAPTURE
	EventCall    = traceEventKindEVENT_CALL

	CaptureCount = traceCaptureFlagsCAPTURE_COUNT
	CaptureChain = traceCaptureFlagsCAPTURE_CHAIN

	WalkOutermost = traceWalkEndWALK_OUTERMOST
	WalkNoRows    = traceWalkEndWALK_NO_ROWS

	ABIAMD64 = traceAbiABI_AMD64
	ABII386  = traceAbiABI_I386
	ABIX32   = traceAbiABI_X32

	TallyLost         = traceTallyTALLY_LOST
	TallyUntracked    = traceTallyTALLY_UNTRACKED
	TallyLostStacks   = traceTallyTALLY_LOST_STACKS
	TallyStreamLost   = traceTallyTALLY_STREAM_LOST
	TallyBroken       = traceTallyTALLY_BROKEN
	TallyUnattributed = traceTallyTALLY_UNATTRIBUTED
)

// TallyKey names a number about the kernel part's work for a program.
type TallyKey struct {
	Program ObjectID
	Tally   Tally
}

// Record is one event with what belongs to its kind. Its slices are valid until the next Read.
type Record struct {
	Event
	Frames []Frame   // EventStack: innermost first
	End    WalkEnd   // EventStack, EventCapture: why the walk ended
	Regs   Registers // EventCapture
	Object ObjectID  // EventCapture, WalkNoRows: the object whose rows were missed
	Stack  []byte    // EventCapture: memory, piece by piece
	Pieces []Piece   // EventCapture: the stack from the page of Regs.Sp upwards, and others that the walk may go on with

	raw ringbuf.Record
}

// Piece is a part of the target's memory.
type Piece = tracePiece

// Read waits for the next event.
func (t *Tracer) Read(r *Record) error {
	if err := t.events.ReadInto(&r.raw); err != nil {
		return err
	}
	return r.decode(r.raw.RawSample)
}

// Flush makes Read return what is in the ring buffer now and then ErrFlushed.
func (t *Tracer) Flush() error { return t.events.Flush() }

// ErrFlushed is the end of the events after Flush.
var ErrFlushed = ringbuf.ErrFlushed

func (r *Record) decode(sample []byte) error {
	if len(sample) < int(unsafe.Sizeof(Event{})) {
		return fmt.Errorf("event of %d bytes is too short", len(sample))
	}
	r.Event = *(*Event)(unsafe.Pointer(&sample[0]))
	r.Frames, r.Stack, r.Pieces = nil, nil, nil
	switch EventKind(r.Kind) {
	case EventStack:
		const fixed = int(unsafe.Offsetof(traceStackEvent{}.Frames))
		if len(sample) < fixed {
			return fmt.Errorf("stack event of %d bytes is too short", len(sample))
		}
		e := (*traceStackEvent)(unsafe.Pointer(&sample[0]))
		if room := (len(sample) - fixed) / int(unsafe.Sizeof(Frame{})); int(e.Depth) > room {
			return fmt.Errorf("stack event of %d frames has room for %d", e.Depth, room)
		}
		r.End = WalkEnd(e.End)
		r.Frames = e.Frames[:e.Depth]
	case EventCapture:
		const fixed = int(unsafe.Offsetof(traceCaptureEvent{}.Stack))
		if len(sample) < fixed {
			return fmt.Errorf("capture of %d bytes is too short", len(sample))
		}
		e := (*traceCaptureEvent)(unsafe.Pointer(&sample[0]))
		if int(e.Bytes) > len(sample)-fixed {
			return fmt.Errorf("capture of %d stack bytes holds %d", e.Bytes, len(sample)-fixed)
		}
		pieces := uint64(0)
		for _, p := range e.Pieces {
			pieces += uint64(p.Bytes)
		}
		if pieces > uint64(e.Bytes) {
			return fmt.Errorf("the pieces of a capture of %d stack bytes have %d", e.Bytes, pieces)
		}
		r.End = WalkEnd(e.End)
		r.Object = ObjectID(e.Object)
		r.Regs = e.Regs
		r.Stack = sample[fixed : fixed+int(e.Bytes)]
		r.Pieces = e.Pieces[:]
	}
	return nil
}
