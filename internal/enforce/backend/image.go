package backend

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"bulkhead/internal/enforce/denial"
)

// Executable returns the path of what a process executes, as the kernel tells.
func Executable(pid int) (string, error) {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return strings.TrimSuffix(path, " (deleted)"), err
}

// Named returns the path of the file that a thread's execve or execveat names, for an answer in good time: symbolic links
// and the interpreters of scripts are followed. It returns false where it cannot tell.
func Named(tid int, call string, args [6]uint64, memory denial.Strings) (string, bool) {
	pointer, folder := args[0], fmt.Sprintf("/proc/%d/cwd", tid)
	if call == "execveat" {
		pointer = args[1]
		if fd := int32(args[0]); fd >= 0 {
			folder = fmt.Sprintf("/proc/%d/fd/%d", tid, fd)
		}
	}
	const pathMax = 4096
	path, whole, err := memory(pointer, pathMax)
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
