package inkernel

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// threadGroup returns the process that a thread belongs to.
func threadGroup(tid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return tid
	}
	_, rest, _ := bytes.Cut(status, []byte("\nTgid:"))
	pid := tid
	fmt.Sscan(string(rest), &pid)
	return pid
}

// readString reads a string of another process; whole is false where it goes on after limit bytes.
func readString(pid int, address uint64, limit int) (s string, whole bool, err error) {
	buffer := make([]byte, limit)
	// What follows in the next page may not be there.
	first := min(limit, os.Getpagesize()-int(address%uint64(os.Getpagesize())))
	read := 0
	for _, part := range [][]byte{buffer[:first], buffer[first:]} {
		if len(part) == 0 {
			break
		}
		local := []unix.Iovec{{Base: &part[0], Len: uint64(len(part))}}
		remote := []unix.RemoteIovec{{Base: uintptr(address) + uintptr(read), Len: len(part)}}
		n, err := unix.ProcessVMReadv(pid, local, remote, 0)
		if err != nil {
			return "", false, err
		}
		read += n
		if end := bytes.IndexByte(buffer[:read], 0); end >= 0 {
			return string(buffer[:end]), true, nil
		}
	}
	return string(buffer[:read]), false, nil
}

// named returns the path of the file that an execve or execveat names, with symbolic links and the interpreters of scripts
// followed. It returns false where it cannot tell.
func named(pid int, call string, args [6]uint64) (string, bool) {
	pointer, folder := args[0], fmt.Sprintf("/proc/%d/cwd", pid)
	if call == "execveat" {
		pointer = args[1]
		if fd := int32(args[0]); fd >= 0 {
			folder = fmt.Sprintf("/proc/%d/fd/%d", pid, fd)
		}
	}
	path, whole, err := readString(pid, pointer, unix.PathMax)
	if err != nil || !whole {
		return "", false
	}
	const interpreters = 5 // as many as the kernel follows
	for range interpreters {
		if path, err = resolve(path, folder); err != nil {
			return "", false
		}
		next, script := interpreter(path)
		if !script {
			return path, true
		}
		path = next
	}
	return "", false
}

// resolve returns the absolute path without symbolic links.
func resolve(path, folder string) (string, error) {
	if path == "" { // execveat with AT_EMPTY_PATH
		return os.Readlink(folder)
	}
	if !filepath.IsAbs(path) {
		base, err := os.Readlink(folder)
		if err != nil {
			return "", err
		}
		path = filepath.Join(base, path)
	}
	return filepath.EvalSymlinks(path)
}

// interpreter returns the program that a script names in its first line.
func interpreter(path string) (string, bool) {
	file, err := os.Open(path)
	if err != nil {
		return "", false
	}
	defer file.Close()
	start := make([]byte, 256) // all that the kernel reads of a script
	n, _ := file.Read(start)
	line, isScript := strings.CutPrefix(string(start[:n]), "#!")
	if !isScript {
		return "", false
	}
	line, _, _ = strings.Cut(line, "\n")
	words := strings.Fields(line)
	if len(words) == 0 {
		return "", false
	}
	return words[0], true
}
