package trace

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"sync"

	"bulkhead/internal/attribution"
	"bulkhead/internal/bpf"
)

// streamer writes one JSON line for each call.
type streamer struct {
	mu      sync.Mutex
	out     *json.Encoder
	objects *objects
	err     error // the first of out
}

// streamedCall is one line of --stream.
type streamedCall struct {
	Time        uint64          `json:"time"` // CLOCK_MONOTONIC, ns
	PID         uint32          `json:"pid"`
	TID         uint32          `json:"tid"`
	Program     string          `json:"program"`
	Compartment string          `json:"compartment"`
	Via         string          `json:"via"`
	ABI         attribution.ABI `json:"abi"`
	Syscall     string          `json:"syscall"`
	NR          int             `json:"nr"`
}

func newStreamer(out io.Writer, objects *objects) *streamer {
	if out == nil {
		return nil
	}
	return &streamer{out: json.NewEncoder(out), objects: objects}
}

func (s *streamer) call(e *bpf.Event) {
	call := callOf(e.Key.Nr, e.Key.Abi)
	line := streamedCall{
		Time: e.Time, PID: e.Pid, TID: e.Tid,
		Program:     s.name(e.Key.Program),
		Compartment: attribution.Unknown,
		ABI:         call.ABI, Syscall: call.Name, NR: call.NR,
	}
	if origin := s.objects.get(bpf.ObjectID(e.Key.Origin.Object)); origin != nil {
		line.Compartment = origin.compartment(e.Key.Origin.Offset)
		line.Via = viaOf(origin, e.Key.Origin.Offset, s.objects.get(bpf.ObjectID(e.Key.Via.Object)), e.Key.Via.Offset)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.out.Encode(line); err != nil && s.err == nil {
		s.err = fmt.Errorf("write the stream: %w", err)
	}
}

// failed tells what kept calls from being written, if anything.
func (s *streamer) failed() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// unstreamed is the number of calls that found no room on their way to the stream.
func (s *session) unstreamed() uint64 {
	var calls uint64
	for key, n := range s.counts.Tallies() {
		if key.Tally == bpf.TallyStreamLost {
			calls += n
		}
	}
	return calls
}

func (s *streamer) name(id uint32) string {
	if obj := s.objects.get(bpf.ObjectID(id)); obj != nil {
		return attribution.ObjectName(obj.path)
	}
	return attribution.Unknown
}

func hex(n uint64) string { return "0x" + strconv.FormatUint(n, 16) }
