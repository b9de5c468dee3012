package stracelog

import (
	"bytes"
	"strconv"
)

// maxPID is the kernel's limit (PID_MAX_LIMIT); a larger number in front of a
// line is a time.
const maxPID = 1 << 22

// kind says what a line tells.
type kind int

const (
	other      kind = iota // not of strace, or of no use
	call                   // a call with its result
	unfinished             // a call that has begun
	resumed                // the result of one that had begun
	signal                 // a signal was delivered; its stack may follow
	exited                 // a process has ended; its last stack may follow
	superseded             // a thread's execve took over the process
	attached               // strace follows a new process
	mode                   // a process has changed its ABI
)

// line is one line other than a stack's, without its prefix.
type line struct {
	kind   kind
	pid    int    // 0 where the line has none
	name   []byte // of the system call, or of the ABI mode
	args   []byte // all behind the opening parenthesis of a call
	result []byte // behind the last " = ", "?" where a call has none
	other  int    // the process attached, superseding or changing its mode
}

// parseLine takes a line apart. The result points into b.
func parseLine(b []byte) line {
	if l, ok := parseNotice(b); ok {
		return l
	}
	var l line
	l.pid, b = cutPID(b)
	b = cutTimes(b)
	switch {
	case bytes.HasPrefix(b, []byte("--- ")):
		l.kind = signal
	case bytes.HasPrefix(b, []byte("+++ superseded by execve in pid ")):
		l.kind = superseded
		l.other, _ = cutNumber(b[len("+++ superseded by execve in pid "):])
	case bytes.HasPrefix(b, []byte("+++ ")):
		l.kind = exited
	case bytes.HasPrefix(b, []byte("<... ")):
		l.parseResumed(b[len("<... "):])
	default:
		l.parseCall(b)
	}
	return l
}

// parseNotice reads what strace says about itself.
func parseNotice(b []byte) (l line, ok bool) {
	b = bytes.TrimPrefix(b, []byte("strace: "))
	switch {
	case bytes.HasPrefix(b, []byte("[ Process PID=")):
		l.kind = mode
		l.other, b = cutNumber(b[len("[ Process PID="):])
		l.name, _ = bytes.CutPrefix(b, []byte(" runs in "))
		l.name, _, ok = bytes.Cut(l.name, []byte(" mode"))
		ok = ok && l.other > 0
	case bytes.HasPrefix(b, []byte("Process ")):
		l.kind = attached
		l.other, b = cutNumber(b[len("Process "):])
		ok = bytes.Equal(b, []byte(" attached"))
	}
	return l, ok
}

func (l *line) parseCall(b []byte) {
	n := 0
	for n < len(b) && isWord(b[n]) {
		n++
	}
	if n == 0 || n >= len(b) || b[n] != '(' {
		return
	}
	l.name, l.args = b[:n], b[n+1:]
	if bytes.HasSuffix(b, []byte("<unfinished ...>")) {
		l.kind = unfinished
		return
	}
	l.kind = call
	l.result = resultOf(l.args)
}

func (l *line) parseResumed(b []byte) {
	name, rest, ok := bytes.Cut(b, []byte(" resumed>"))
	if !ok || len(name) == 0 {
		return
	}
	l.kind, l.name, l.result = resumed, name, resultOf(rest)
}

// resultOf finds the result; a call that strace was cut off in has "?" as well.
func resultOf(b []byte) []byte {
	at := bytes.LastIndex(b, []byte(" = "))
	if at < 0 {
		return []byte("?")
	}
	return b[at+len(" = "):]
}

// cutPID cuts "[pid 12] ", "12 " or, with -Y, "12<name> " from the start.
func cutPID(b []byte) (int, []byte) {
	in, bracket := bytes.CutPrefix(b, []byte("[pid "))
	if bracket {
		in = bytes.TrimLeft(in, " ")
	}
	pid, rest := cutNumber(in)
	if pid <= 0 || pid > maxPID {
		return 0, b
	}
	if len(rest) > 0 && rest[0] == '<' {
		if end := bytes.IndexByte(rest, '>'); end > 0 {
			rest = rest[end+1:]
		}
	}
	if bracket {
		if len(rest) == 0 || rest[0] != ']' {
			return 0, b
		}
		rest = rest[1:]
	}
	if len(rest) == 0 || rest[0] != ' ' {
		return 0, b
	}
	return pid, bytes.TrimLeft(rest, " ")
}

// cutTimes cuts what -t, -r, -i and -n put in front of a call: times like
// 12:34:56.789, 1700000000.123456 or (+ 0.000012), and bracketed addresses and
// numbers.
func cutTimes(b []byte) []byte {
	for {
		b = bytes.TrimLeft(b, " ")
		n := timeToken(b)
		if n == 0 || n >= len(b) || b[n] != ' ' {
			return b
		}
		b = b[n:]
	}
}

// timeToken returns the length of the time, address or number that b starts
// with, 0 if it starts with something else.
func timeToken(b []byte) int {
	switch {
	case bytes.HasPrefix(b, []byte("(+")):
		return 1 + bytes.IndexByte(b, ')')
	case bytes.HasPrefix(b, []byte("[")):
		return 1 + bytes.IndexByte(b, ']')
	}
	n := 0
	for n < len(b) && (b[n] >= '0' && b[n] <= '9' || b[n] == ':' || b[n] == '.') {
		n++
	}
	return n
}

// cutNumber reads a decimal number; without one, or one too large for a pid or
// a time in seconds, it is -1.
func cutNumber(b []byte) (int, []byte) {
	n := 0
	for n < len(b) && b[n] >= '0' && b[n] <= '9' {
		n++
	}
	if n == 0 || n > 12 {
		return -1, b
	}
	v, err := strconv.Atoi(string(b[:n]))
	if err != nil {
		return -1, b
	}
	return v, b[n:]
}

func isWord(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}
