package stracelog

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/ianlancetaylor/demangle"

	"bulkhead/internal/attribution"
)

var framePrefix = []byte(" > ")

// frame is one line of a stack.
type frame struct {
	path     string // "" if no mapped file holds the address
	function string
	offset   uint64 // from the function, without one in the file
	conduit  bool
	outer    outer
}

// outer says what it means that a stack's outermost frame is in an object.
type outer int

const (
	broken  outer = iota // the walk ended early: no stack begins there
	whole                // in the program, or in glibc's loader during start-up
	ofClone              // in glibc, where stacks of clone's begin: threads, posix_spawn
)

// outerOf judges by the file name. musl's loader and C library are one file,
// mostly without unwind tables, so that a walk that ends there says nothing.
func outerOf(name string) outer {
	switch {
	case strings.HasPrefix(name, "ld-linux"), strings.HasPrefix(name, "ld-2."), strings.HasPrefix(name, "ld64.so."):
		return whole
	case name == "libc.so.6", strings.HasPrefix(name, "libc-2."), strings.HasPrefix(name, "libpthread"):
		return ofClone
	case strings.Contains(name, ".so"), strings.HasPrefix(name, "[v"): // [vdso], [vsyscall]
		return broken
	}
	return whole
}

// parseFrame reads a line of a stack behind its " > ":
//
//	PATH(FUNCTION+0xOFFSET) [0xFILEOFFSET]
//	PATH() [0xFILEOFFSET]
//	unexpected_backtracing_error [0xADDRESS]
//
// With --stack-trace=source a file and a line stand before the bracket.
func parseFrame(b []byte, conduits attribution.Conduits) frame {
	text := string(b)
	path, rest, ok := cutPath(text)
	if !ok {
		return frame{}
	}
	f := frame{path: strings.TrimSuffix(path, " (deleted)")}
	if strings.HasPrefix(path, "/memfd:") {
		f.path = attribution.ObjectName(path)
	}
	f.conduit = conduits.Match(f.path)
	f.outer = outerOf(attribution.ObjectName(f.path))
	if at := strings.LastIndex(rest, "+0x"); at > 0 {
		f.function = demangle.Filter(rest[:at], demangle.NoParams, demangle.MaxLength(12))
		f.offset = leadingHex(rest[at+len("+0x"):])
		return f
	}
	if at := strings.LastIndex(rest, "[0x"); at >= 0 {
		f.offset = leadingHex(rest[at+len("[0x"):])
	}
	return f
}

// cutPath splits at the parenthesis that opens the function; names of files
// may have parentheses of their own behind a space, as in "x (deleted)".
func cutPath(s string) (path, rest string, ok bool) {
	if !strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "[") {
		return "", "", false
	}
	for i := 1; i < len(s); i++ {
		if s[i] == '(' && s[i-1] != ' ' {
			return s[:i], s[i+1:], true
		}
	}
	return "", "", false
}

// leadingHex reads the hexadecimal digits that s starts with; 0 without any.
func leadingHex(s string) uint64 {
	n := 0
	for n < len(s) && strings.IndexByte("0123456789abcdef", s[n]) >= 0 {
		n++
	}
	v, _ := strconv.ParseUint(s[:n], 16, 64)
	return v
}

// frames parses each distinct line once: a program has few call sites and
// calls them often.
type frames struct {
	conduits attribution.Conduits
	known    map[string]*frame
}

// maxFrames bounds the cache for logs in which no two lines are equal.
const maxFrames = 1 << 18

func (fs *frames) parse(b []byte) *frame {
	b = bytes.TrimPrefix(b, framePrefix)
	if f := fs.known[string(b)]; f != nil {
		return f
	}
	if len(fs.known) >= maxFrames {
		clear(fs.known)
	}
	f := parseFrame(b, fs.conduits)
	fs.known[string(b)] = &f
	return &f
}
