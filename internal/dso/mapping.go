package dso

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mapping is a piece of a file, or of memory without one, that a process has executable.
type Mapping struct {
	Start, End uint64 // addresses
	Offset     uint64 // of Start in the file
	File       FileID
}

// FileID names a file as perf records and /proc/PID/maps do. The path belongs to it: on overlayfs device and inode alone
// are not unique.
type FileID struct {
	Major, Minor uint32
	Inode        uint64
	// Path is the name that the file was mapped by, or what stands for it: [vdso], [heap], /memfd:NAME (deleted), or
	// nothing for anonymous memory.
	Path string
}

// Backed reports whether there is a file.
func (id FileID) Backed() bool { return id.Inode != 0 && strings.HasPrefix(id.Path, "/") }

// Mappings reads the executable mappings of a process, or of the process that a thread belongs to, in the order of their
// addresses: proc_pid_maps(5).
func Mappings(pid int) ([]Mapping, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/maps")
	if err != nil {
		return nil, fmt.Errorf("read the mappings of process %d: %w", pid, err)
	}
	defer f.Close()
	var maps []Mapping
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<16)
	for lines.Scan() {
		if m, ok := parseMapsLine(lines.Text()); ok {
			maps = append(maps, m)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the mappings of process %d: %w", pid, err)
	}
	return maps, nil
}

// parseMapsLine reads one line of /proc/PID/maps,
//
//	7f1c8e428000-7f1c8e57d000 r-xp 00026000 fe:00 1058466   /usr/lib/x86_64-linux-gnu/libc.so.6
//
// ok is false for a line of another form and for what is not executable.
func parseMapsLine(line string) (m Mapping, ok bool) {
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
	m.Start, m.End = number(low, 16, 64), number(high, 16, 64)
	m.Offset = number(fields[2], 16, 64)
	path := MappedPath(unescapePath(strings.TrimLeft(rest, " ")))
	m.File = FileID{uint32(number(major, 16, 32)), uint32(number(minor, 16, 32)), number(fields[4], 10, 64), path}
	return m, ok && m.Start < m.End
}

// unescapePath undoes the kernel's \012 for a line feed in a name.
func unescapePath(path string) string { return strings.ReplaceAll(path, `\012`, "\n") }

// MappedPath is the name that a file was mapped by. The kernel marks one that has none any more, so that a library would
// change its name when its package is upgraded; a memory file never has one, and keeps the mark.
func MappedPath(path string) string {
	if strings.HasPrefix(path, "/memfd:") {
		return path
	}
	return strings.TrimSuffix(path, " (deleted)")
}

// OpenMapped opens a file that a process has mapped: the very one through map_files, which may need rights, or the path,
// as long as it is still that file. Another may have been mapped at the same place, or moved to the same path, since.
func OpenMapped(pid int, m Mapping) (*os.File, error) {
	paths := [...]string{
		fmt.Sprintf("/proc/%d/map_files/%x-%x", pid, m.Start, m.End),
		fmt.Sprintf("/proc/%d/root%s", pid, m.File.Path),
		m.File.Path,
	}
	var errs []error
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if m.File.is(file) {
			return file, nil
		}
		file.Close()
		errs = append(errs, fmt.Errorf("%s is another file by now", path))
	}
	return nil, errors.Join(errs...)
}

// is reports whether an open file is the one. On a stacked file system (overlayfs) what stat tells may be the numbers of
// the upper layer while a mapping has those of the file below; the path has to do then.
func (id FileID) is(file *os.File) bool {
	var stat unix.Stat_t
	if unix.Fstat(int(file.Fd()), &stat) != nil {
		return false
	}
	if stat.Ino == id.Inode {
		return true
	}
	if unix.Major(stat.Dev) == id.Major && unix.Minor(stat.Dev) == id.Minor {
		return false
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	return err == nil && path == id.Path
}
