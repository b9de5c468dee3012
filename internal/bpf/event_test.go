package bpf

import (
	"encoding/binary"
	"strings"
	"testing"
	"unsafe"
)

// sample is an event of a kind and size whose word at an offset is set.
func sample(kind EventKind, size int, offset uintptr, word uint32) []byte {
	s := make([]byte, size)
	binary.NativeEndian.PutUint32(s, uint32(kind))
	if word != 0 {
		binary.NativeEndian.PutUint32(s[offset:], word)
	}
	return s
}

const (
	stackHeader   = int(unsafe.Offsetof(traceStackEvent{}.Frames))
	stackDepth    = unsafe.Offsetof(traceStackEvent{}.Depth)
	captureHeader = int(unsafe.Offsetof(traceCaptureEvent{}.Stack))
	captureBytes  = unsafe.Offsetof(traceCaptureEvent{}.Bytes)
	capturePiece  = unsafe.Offsetof(traceCaptureEvent{}.Pieces) + unsafe.Offsetof(tracePiece{}.Bytes)
)

func TestDecode(t *testing.T) {
	for _, tt := range []struct {
		name          string
		sample        []byte
		frames, stack int
		err           string
	}{
		{name: "call", sample: sample(EventCall, int(unsafe.Sizeof(Event{})), 0, 0)},
		{name: "stack", sample: sample(EventStack, stackHeader+3*8, stackDepth, 3), frames: 3},
		{name: "stack with room", sample: sample(EventStack, stackHeader+7*8, stackDepth, 3), frames: 3},
		{name: "capture", sample: sample(EventCapture, captureHeader+100, captureBytes, 100), stack: 100},
		{name: "nothing", sample: nil, err: "event of 0 bytes is too short"},
		{name: "short", sample: make([]byte, unsafe.Sizeof(Event{})-1), err: "too short"},
		{name: "short stack", sample: sample(EventStack, stackHeader-1, 0, 0), err: "stack event of"},
		{name: "stack without its frames", sample: sample(EventStack, stackHeader+3*8, stackDepth, 4), err: "stack event of 4 frames has room for 3"},
		{name: "short capture", sample: sample(EventCapture, captureHeader-1, 0, 0), err: "too short"},
		{name: "capture without its stack", sample: sample(EventCapture, captureHeader+100, captureBytes, 101), err: "capture of 101 stack bytes holds 100"},
		{name: "capture of too much", sample: sample(EventCapture, captureHeader+100, captureBytes, 1<<31), err: "holds 100"},
		{name: "pieces of too much", sample: sample(EventCapture, captureHeader+100, capturePiece, 1), err: "pieces of a capture of 0 stack bytes have 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r Record
			err := r.decode(tt.sample)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || len(r.Frames) != tt.frames || len(r.Stack) != tt.stack {
				t.Errorf("%d frames, %d bytes of stack, error %v; want %d and %d", len(r.Frames), len(r.Stack), err, tt.frames, tt.stack)
			}
		})
	}
}

// A record that is read again holds nothing of the event before.
func TestDecodeAgain(t *testing.T) {
	var r Record
	for _, s := range [][]byte{
		sample(EventStack, stackHeader+8, stackDepth, 1),
		sample(EventCapture, captureHeader+1, captureBytes, 1),
		sample(EventCall, int(unsafe.Sizeof(Event{})), 0, 0),
	} {
		if err := r.decode(s); err != nil {
			t.Fatal(err)
		}
	}
	if r.Frames != nil || r.Stack != nil {
		t.Errorf("a call came with %d frames and %d bytes of stack", len(r.Frames), len(r.Stack))
	}
}
