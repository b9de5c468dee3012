package stracelog

import (
	"bytes"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

// process is a thread, in strace's words a tracee.
type process struct {
	pid     int
	image   *image
	abi     syscalls.ABI
	cloned  bool   // its stack begins in clone
	pending *event // has begun
	held    *event // does not return; its stack follows at the exit
}

// event is one system call.
type event struct {
	call    attribution.Call
	process *process
	image   *image // nil for strace's own execve
	exec    string // the path, of an execve
	forks   bool
	birth   birth // of the child, if it forks
	cloned  bool  // the process's
}

// birth is what a new process has from its parent.
type birth struct {
	image  *image
	cloned bool
}

// birthOf is for a child of p's fork with the arguments given: shared memory
// takes a stack of its own, otherwise the child goes on where its parent is.
func birthOf(p *process, args []byte) birth {
	return birth{p.image, p.cloned || bytes.Contains(args, []byte("CLONE_VM"))}
}

func (e *event) record(stack []*frame) {
	if e.image != nil {
		e.image.add(e.call, stack, e.cloned)
	}
}

// release records calls of p that will get no stack any more.
func (l *log) release(p *process) {
	for _, e := range []*event{p.held, p.pending} {
		if e != nil {
			e.record(nil)
		}
	}
	p.held, p.pending = nil, nil
}

func (l *log) drop(p *process) {
	l.release(p)
	delete(l.processes, p.pid)
}

// exit opens the call that ended the process: strace took its stack at the
// entry and prints it now.
func (l *log) exit(p *process) {
	if p.held == nil {
		p.held = p.pending
		p.pending = nil
	}
	l.open = p.held
	p.held = nil
	l.drop(p)
}

// supersede gives the process to the thread whose execve ends all others.
func (l *log) supersede(p *process, thread int) {
	t := l.processes[thread]
	l.drop(p)
	if t == nil {
		return
	}
	delete(l.processes, thread)
	t.pid = p.pid
	l.processes[p.pid] = t
}

// find returns the process of a line; without a pid that is the only one left.
func (l *log) find(pid int) *process {
	if pid == 0 && len(l.processes) == 1 {
		for _, p := range l.processes {
			return p
		}
	}
	if p := l.processes[pid]; p != nil {
		return p
	}
	if pid == 0 && l.last != nil && l.processes[l.last.pid] == l.last {
		return l.last
	}
	// strace names the first process as soon as there is another.
	if first := l.processes[0]; first != nil {
		delete(l.processes, 0)
		first.pid = pid
		l.processes[pid] = first
		return first
	}
	return l.appear(pid)
}

// appear makes a process that the log has not spoken of. Before the line with
// its parent's result, only the calls under way say who that is.
func (l *log) appear(pid int) *process {
	p := &process{pid: pid, abi: l.abi}
	if len(l.processes) > 0 {
		b, ok := l.forking()
		if !ok {
			b.image = l.newImage("")
			l.orphans[pid] = b.image
		}
		p.image, p.cloned = b.image, b.cloned
	}
	l.processes[pid] = p
	return p
}

// forking returns what a new process has from its parent, if the processes that
// are in a fork agree on that.
func (l *log) forking() (only birth, ok bool) {
	for _, p := range l.processes {
		if p.pending == nil || !p.pending.forks {
			continue
		}
		b := p.pending.birth
		b.image = b.image.canonical()
		if ok && b != only {
			return birth{}, false
		}
		only, ok = b, true
	}
	return only, ok
}

// attach notes a new process.
func (l *log) attach(pid int, b birth) {
	if pid > 0 && pid <= maxPID && l.processes[pid] == nil {
		l.processes[pid] = &process{pid: pid, abi: l.abi, image: b.image, cloned: b.cloned}
	}
}

// adopt notes that a fork returned a pid.
func (l *log) adopt(pid int, b birth) {
	orphan := l.orphans[pid]
	if orphan == nil {
		l.attach(pid, b)
		return
	}
	delete(l.orphans, pid)
	if child := l.processes[pid]; child != nil && child.image == orphan {
		child.cloned = b.cloned
	}
	if own, real := orphan.canonical(), b.image.canonical(); own != real {
		own.same = real
	}
}
