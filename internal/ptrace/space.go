package ptrace

import (
	"slices"
	"sort"

	"bulkhead/internal/dso"
	"bulkhead/internal/seccomp"
	"bulkhead/internal/syscalls"
)

// Space is an address space with its executable mappings. Threads, and processes made by vfork(2) or clone(2) with
// CLONE_VM, share one.
//
// The table must not lag behind: an address that belonged to a library when the table was read could be generated code by
// now. So every call that can make or move an executable mapping stops ([Changes]), before and after it happens:
//
//   - While one is under way, every other stop in the space waits.
//   - A thread that stops after one may have entered its call before it. If what is at its instruction has changed since the
//     thread last was seen, the thread makes its call again: then it runs what is mapped now.
//   - The table is read again when it is next needed.
//
// Calls that only take mappings away do not stop. What they leave in the table cannot run, and what is mapped there later
// is a change.
type Space struct {
	// Data is the handler's.
	Data any

	mappings   []dso.Mapping
	generation uint64 // of mappings
	stale      bool
	last       int // index of the mapping that was found last

	epoch    uint64   // counts finished changes
	changed  []extent // the last ones, the oldest first
	changing *Thread  // whose call is under way
	waiting  []*Thread
}

// extent is an address range with the epoch that it changed in.
type extent struct {
	epoch      uint64
	start, end uint64
}

// keptExtents bounds Space.changed: for a thread that was not seen for longer all addresses count as changed.
const keptExtents = 64

func newSpace() *Space { return &Space{stale: true} }

// Find returns what a stopped thread has at an address, nil for nothing executable. It holds good until the next stop.
func (t *Thread) Find(addr uint64) *dso.Mapping {
	s := t.Process.Space
	fresh := s.refresh(t.TID)
	for {
		if s.last < len(s.mappings) && s.mappings[s.last].Start <= addr && addr < s.mappings[s.last].End {
			return &s.mappings[s.last]
		}
		i := sort.Search(len(s.mappings), func(i int) bool { return addr < s.mappings[i].End })
		if i < len(s.mappings) && s.mappings[i].Start <= addr {
			s.last = i
			return &s.mappings[i]
		}
		if fresh {
			return nil
		}
		s.read(t.TID) // a stack that is executable has grown
		fresh = true
	}
}

// Generation changes whenever the table does: what was found out about addresses before holds no more.
func (t *Thread) Generation() uint64 {
	s := t.Process.Space
	s.refresh(t.TID)
	return s.generation
}

// Mappings returns all executable mappings of a stopped thread, in the order of their addresses. They hold good until the
// next stop.
func (t *Thread) Mappings() []dso.Mapping {
	s := t.Process.Space
	s.refresh(t.TID)
	return s.mappings
}

func (s *Space) refresh(tid int) (done bool) {
	if s.stale {
		s.read(tid)
		return true
	}
	return false
}

// read takes the table from the kernel. One that cannot be read is empty: nothing is known of such a process.
func (s *Space) read(tid int) {
	mappings, _ := dso.Mappings(tid)
	s.stale = false
	if !slices.Equal(mappings, s.mappings) {
		s.mappings, s.last = mappings, 0
		s.generation++
	}
}

// extentsOf says where a call that has returned may have changed the code.
func extentsOf(c *seccomp.Call, result uint64) []extent {
	everywhere := []extent{{end: wholeWord}}
	name, _ := syscalls.Name(c.ABI, int(c.NR))
	if c.ABI == syscalls.I386 && (name == "mmap" || name == "ipc") {
		return everywhere
	}
	reach := func(start, size uint64) extent {
		return extent{start: start, end: max(start, start+size+pageSize)} // the kernel rounds up
	}
	failed := int64(result) < 0 && int64(result) > -pageSize
	switch name {
	case "mmap", "mmap2":
		if failed {
			return nil
		}
		return []extent{reach(result, c.Args[1])}
	case "mprotect", "pkey_mprotect", "remap_file_pages":
		return []extent{reach(c.Args[0], c.Args[1])}
	case "execve", "execveat": // they failed
		return nil
	case "mremap":
		if failed {
			return []extent{reach(c.Args[0], c.Args[1])}
		}
		return []extent{reach(c.Args[0], c.Args[1]), reach(result, c.Args[2])}
	}
	return everywhere
}

// finished records a change that a call has made.
func (s *Space) finished(extents ...extent) {
	s.epoch++
	s.stale = true
	for _, e := range extents {
		e.epoch = s.epoch
		s.changed = append(s.changed, e)
	}
	if n := len(s.changed) - keptExtents; n > 0 {
		s.changed = slices.Delete(s.changed, 0, n)
	}
}

// changedSince tells whether the code at an address may be another one than in an epoch.
func (s *Space) changedSince(epoch, addr uint64) bool {
	if epoch == s.epoch {
		return false
	}
	if len(s.changed) == keptExtents && s.changed[0].epoch > epoch+1 {
		return true
	}
	for i := len(s.changed) - 1; i >= 0 && s.changed[i].epoch > epoch; i-- {
		if e := &s.changed[i]; e.start <= addr && addr < e.end {
			return true
		}
	}
	return false
}
