package stracelog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

const (
	// maxLine bounds a line in bytes; strace -s makes them long.
	maxLine = 16 << 20
	// maxForeign is the number of lines after which a file without a single
	// system call is said to be no log of strace.
	maxForeign = 10000
)

// Options say what a log does not.
type Options struct {
	Conduits attribution.Conduits
	// ABI is that of the programs in the log.
	ABI syscalls.ABI
}

// Read reads the log of strace -f -k. It holds what was found, not the log. A
// file that is no such log is an error.
func Read(r io.Reader, o Options) (*attribution.Document, error) {
	l := &log{
		abi:       o.ABI,
		frames:    frames{conduits: o.Conduits, known: make(map[string]*frame)},
		processes: make(map[int]*process),
		byExec:    make(map[string]*image),
		orphans:   make(map[int]*image),
		calls:     make(map[callName]attribution.Call),
	}
	if err := l.read(r); err != nil {
		return nil, fmt.Errorf("read strace log: %w", err)
	}
	return l.document(), nil
}

// log is the state of the processes at a line.
type log struct {
	abi       syscalls.ABI
	frames    frames
	processes map[int]*process
	last      *process // of the last line
	images    []*image // in the order of their first exec
	byExec    map[string]*image
	orphans   map[int]*image // of processes that appeared before their parent's fork returned
	calls     map[callName]attribution.Call

	open   *event   // the call whose stack is being read
	stack  []*frame // of open
	broken []byte   // a call that strace's own words interrupted

	lines, seen, stacked int
	lost                 uint64
}

type callName struct {
	abi  syscalls.ABI
	name string
}

func (l *log) read(r io.Reader) error {
	in := bufio.NewReaderSize(r, 1<<20)
	var long []byte
	for {
		b, err := in.ReadSlice('\n')
		if len(long)+len(b) > maxLine {
			return fmt.Errorf("line %d is longer than %d MB: not a log of strace", l.lines+1, maxLine>>20)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, b...)
			continue
		}
		if len(long) > 0 {
			b, long = append(long, b...), long[:0]
		}
		if len(b) > 0 {
			l.line(bytes.TrimRight(b, "\r\n"))
		}
		if l.seen == 0 && l.lines >= maxForeign {
			return fmt.Errorf("no system call in the first %d lines: not a log of strace", l.lines)
		}
		if errors.Is(err, io.EOF) {
			return l.end()
		}
		if err != nil {
			return err
		}
	}
}

func (l *log) end() error {
	l.finish()
	for _, pid := range slices.Sorted(maps.Keys(l.processes)) {
		l.drop(l.processes[pid])
	}
	switch {
	case l.seen == 0:
		return errors.New("no system call in it: not a log of strace")
	case l.stacked == 0:
		return errors.New("no stack in it: record with strace -f -k -o FILE")
	}
	return nil
}

func (l *log) line(b []byte) {
	l.lines++
	if bytes.HasPrefix(b, framePrefix) {
		if l.open != nil {
			l.stack = append(l.stack, l.frames.parse(b))
		}
		return
	}
	l.finish()
	if len(l.broken) > 0 {
		b = append(l.broken, b...)
		l.broken = nil
	}
	if head, ok := l.cutInterrupted(b); ok {
		l.broken = bytes.Clone(head)
		return
	}
	p := parseLine(b)
	switch p.kind {
	case attached:
		if b, ok := l.forking(); ok {
			l.attach(p.other, b)
		}
	case mode:
		l.find(p.other).abi = l.modeABI(p.name)
	case other:
		// Output of the program itself may stand between strace's lines.
		if p.pid != 0 || bytes.Contains(b, []byte(") = ")) {
			l.lost++
		}
	default:
		l.event(l.find(p.pid), p)
	}
}

// cutInterrupted finds a call in whose middle strace says that it follows a
// new process: "clone(flags=…strace: Process 12 attached", the rest on the next
// line.
func (l *log) cutInterrupted(b []byte) (head []byte, ok bool) {
	at := bytes.LastIndex(b, []byte("strace: Process "))
	if at <= 0 || !bytes.HasSuffix(b, []byte(" attached")) {
		return nil, false
	}
	n := parseLine(b[at:])
	head = b[:at]
	h := parseLine(head)
	if n.kind != attached || h.kind != call {
		return nil, false
	}
	if p := l.find(h.pid); p.image != nil {
		l.attach(n.other, birthOf(p, h.args))
	}
	return head, true
}

func (l *log) event(p *process, e line) {
	l.last = p
	switch e.kind {
	case call:
		l.begin(p, e)
		l.complete(p, e.result)
	case unfinished:
		l.begin(p, e)
	case resumed:
		if p.pending == nil {
			l.begin(p, e)
		}
		l.complete(p, e.result)
	case exited:
		l.exit(p)
	case superseded:
		l.supersede(p, e.other)
	}
}

// begin notes a call. The first execve of a process that appeared with it is
// strace's own.
func (l *log) begin(p *process, e line) {
	l.release(p)
	l.seen++
	c, ok := l.call(e.name, p.abi)
	if !ok {
		l.lost++
		return
	}
	if p.image == nil && !strings.HasPrefix(c.Name, "execve") {
		p.image = l.newImage("")
	}
	p.pending = &event{call: c, process: p, image: p.image, cloned: p.cloned}
	switch c.Name {
	case "execve", "execveat":
		p.pending.exec = execPath(e.args)
	case "fork", "vfork", "clone", "clone3":
		p.pending.forks, p.pending.birth = true, birthOf(p, e.args)
	}
}

// complete takes the result and opens the call for its stack.
func (l *log) complete(p *process, result []byte) {
	e := p.pending
	if e == nil {
		return
	}
	p.pending = nil
	if bytes.HasPrefix(result, []byte("?")) {
		p.held = e
	}
	l.open = e
	value, _ := cutNumber(result)
	switch {
	case e.exec != "" && value == 0:
		p.image, p.abi, p.cloned = l.imageOf(e.exec), l.abi, false
	case e.forks && value > 0 && value <= maxPID:
		l.adopt(value, e.birth)
	}
}

// finish records the open call with the stack read.
func (l *log) finish() {
	e, stack := l.open, l.stack
	l.open, l.stack = nil, l.stack[:0]
	if e == nil {
		return
	}
	if len(stack) > 0 {
		l.stacked++
	}
	if p := e.process; p.held == e {
		if len(stack) == 0 {
			return // its stack follows at the exit
		}
		p.held = nil
	}
	e.record(stack)
}

func (l *log) call(name []byte, abi syscalls.ABI) (attribution.Call, bool) {
	if c, ok := l.calls[callName{abi, string(name)}]; ok {
		return c, true
	}
	c, ok := callNamed(name, abi)
	if ok {
		l.calls[callName{abi, string(name)}] = c
	}
	return c, ok
}

func (l *log) modeABI(name []byte) syscalls.ABI {
	switch string(name) {
	case "32 bit":
		return syscalls.I386
	case "x32":
		return syscalls.X32
	case "64 bit":
		return syscalls.AMD64
	}
	return l.abi
}

func (l *log) newImage(exec string) *image {
	m := newImage(exec, l.abi)
	l.images = append(l.images, m)
	return m
}

func (l *log) imageOf(exec string) *image {
	m := l.byExec[exec]
	if m == nil {
		m = l.newImage(exec)
		l.byExec[exec] = m
	}
	return m
}

func (l *log) document() *attribution.Document {
	docs := make([]*attribution.Document, len(l.images))
	known := ""
	for i, m := range l.images {
		docs[i] = m.document()
		if path := docs[i].Programs[0].Path; known == "" && path != attribution.Unknown {
			known = path
		}
	}
	// Idle threads of a process that strace was attached to say nothing of
	// their file.
	for _, d := range docs {
		if p := &d.Programs[0]; p.Path == attribution.Unknown && known != "" {
			p.Path = known
		}
	}
	if len(docs) > 0 {
		docs[0].Programs[0].Losses.LostEvents += l.lost
	}
	return attribution.Merge(docs...)
}

// execPath reads the quoted path among the arguments of execve or execveat.
func execPath(args []byte) string {
	start := bytes.IndexByte(args, '"')
	if start < 0 {
		return attribution.Unknown
	}
	end := start + 1
	for end < len(args) && args[end] != '"' {
		if args[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(args) {
		return attribution.Unknown
	}
	path, err := strconv.Unquote(string(args[start : end+1]))
	if err != nil || path == "" {
		return attribution.Unknown
	}
	return path
}
