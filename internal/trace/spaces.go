package trace

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/internal/dso"
	"bulkhead/internal/perf"
)

// mapping is an executable mapping that a process had from some time on.
type mapping struct {
	time uint64 // CLOCK_MONOTONIC, ns
	dso.Mapping
}

// life is one process from its fork or exec on: all executable mappings that it ever made, in the order of their times.
// Nothing is ever removed, so that a stack can be read as of the moment it was captured.
type life struct {
	born   uint64
	died   uint64
	parent *life // after a fork: what was mapped before born
	maps   []mapping
}

// spaces knows the executable mappings of the traced processes. Safe for concurrent use.
type spaces struct {
	mu    sync.Mutex
	lives map[int][]*life
}

func newSpaces() *spaces { return &spaces{lives: map[int][]*life{}} }

// apply takes records in the order of their times. It returns the mappings that traced processes made.
func (s *spaces) apply(records []perf.Record) []processMapping {
	s.mu.Lock()
	defer s.mu.Unlock()
	var made []processMapping
	for _, r := range records {
		l := s.latest(r.PID)
		switch r.Kind {
		case perf.Fork:
			if parent := s.latest(r.Parent); parent != nil && r.PID != r.Parent {
				s.lives[r.PID] = append(s.lives[r.PID], &life{born: r.Time, parent: parent})
			}
		case perf.Exec:
			if l != nil {
				l.died = r.Time
				s.lives[r.PID] = append(s.lives[r.PID], &life{born: r.Time})
			}
		case perf.Exit:
			if l != nil && r.PID == r.TID {
				l.died = r.Time
			}
		case perf.Map:
			if l != nil {
				file := dso.FileID{Major: r.Major, Minor: r.Minor, Inode: r.Inode, Path: dso.MappedPath(r.Path)}
				m := mapping{r.Time, dso.Mapping{Start: r.Start, End: r.End, Offset: r.Offset, File: file}}
				l.maps = append(l.maps, m)
				made = append(made, processMapping{r.PID, m, l.image()})
			}
		}
	}
	return made
}

// processMapping is a mapping with the process that made it, and the program that it runs.
type processMapping struct {
	pid int
	mapping
	image dso.FileID
}

// image is the file of a process's program: execve(2) maps it before all else.
func (l *life) image() dso.FileID {
	for l.parent != nil {
		l = l.parent
	}
	if len(l.maps) == 0 {
		return dso.FileID{}
	}
	return l.maps[0].File
}

func (s *spaces) latest(pid int) *life {
	if all := s.lives[pid]; len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

// forget drops what ended a while ago. A process may go on without its first thread.
func (s *spaces) forget(now uint64, after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for pid, all := range s.lives {
		kept := all[:0]
		for i, l := range all {
			if l.died == 0 || l.died+uint64(after) > now || i == len(all)-1 && exists(pid) {
				kept = append(kept, l)
			}
		}
		if len(kept) == 0 {
			delete(s.lives, pid)
		} else {
			s.lives[pid] = kept
		}
	}
}

func exists(pid int) bool { return unix.Kill(pid, 0) == nil }

// snapshot reads what a process has mapped now: for processes that were there before the records began. The mappings
// count from its birth on.
func (s *spaces) snapshot(pid int) ([]processMapping, error) {
	maps, err := dso.Mappings(pid)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.latest(pid)
	if l == nil {
		l = &life{}
		s.lives[pid] = append(s.lives[pid], l)
	}
	made := make([]processMapping, len(maps))
	mapped := make([]mapping, len(maps))
	for i, m := range maps {
		mapped[i] = mapping{0, m}
		made[i] = processMapping{pid, mapped[i], l.image()}
	}
	l.maps = append(mapped, l.maps...)
	return made, nil
}

// find returns what a process had at an address at a time.
func (s *spaces) find(pid int, address, at uint64) (mapping, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.lives[pid]
	var l *life
	for i := len(all) - 1; i >= 0 && l == nil; i-- {
		if all[i].born <= at {
			l = all[i]
		}
	}
	for ; l != nil; at, l = l.born, l.parent {
		for i := len(l.maps) - 1; i >= 0; i-- {
			if m := l.maps[i]; m.time <= at && m.Start <= address && address < m.End {
				return m, true
			}
		}
	}
	return mapping{}, false
}

// known reports whether a process is one of those that are followed.
func (s *spaces) known(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latest(pid) != nil
}
