package trace

import (
	"strconv"
	"strings"
)

// parseMapsLine reads one line of /proc/PID/maps,
//
//	7f1c8e428000-7f1c8e57d000 r-xp 00026000 fe:00 1058466   /usr/lib/x86_64-linux-gnu/libc.so.6
//
// ok is false for a line of another form and for what is not executable.
func parseMapsLine(line string) (m mapping, ok bool) {
	fields := make([]string, 0, 5)
	rest := line
	for range 5 {
		field, after, _ := strings.Cut(rest, " ")
		fields = append(fields, field)
		rest = after
	}
	low, high, isRange := strings.Cut(fields[0], "-")
	perms := fields[1]
	if !isRange || len(perms) < 4 || perms[2] != 'x' {
		return m, false
	}
	major, minor, isDevice := strings.Cut(fields[3], ":")
	if !isDevice {
		return m, false
	}
	ok = true
	number := func(s string, base, bits int) uint64 {
		n, err := strconv.ParseUint(s, base, bits)
		ok = ok && err == nil
		return n
	}
	m.start, m.end = number(low, 16, 64), number(high, 16, 64)
	m.offset = number(fields[2], 16, 64)
	m.path = filePath(unescapePath(strings.TrimLeft(rest, " ")))
	m.file = fileID{uint32(number(major, 16, 32)), uint32(number(minor, 16, 32)), number(fields[4], 10, 64), m.path}
	return m, ok && m.start < m.end
}

// unescapePath undoes the kernel's \012 for a line feed in a name.
func unescapePath(path string) string { return strings.ReplaceAll(path, `\012`, "\n") }

// filePath is the name that a file was mapped by. The kernel marks one that has none any more, so that a library would
// change its name when its package is upgraded; a memory file never has one, and keeps the mark.
func filePath(path string) string {
	if strings.HasPrefix(path, "/memfd:") {
		return path
	}
	return strings.TrimSuffix(path, " (deleted)")
}
