package trace

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"bulkhead/internal/objfile"
	"bulkhead/internal/ptrace"
)

// ExecError says that a command could not be started at all, and no fault of ours. Err is fs.ErrNotExist or
// exec.ErrNotFound when there is no such file.
type ExecError = ptrace.ExecError

// FindCommand returns the path of the program that a shell would run for name.
func FindCommand(name string) (string, error) {
	path, err := exec.LookPath(name)
	var pathErr *os.PathError
	var execErr *exec.Error
	switch {
	case err == nil:
		return path, checkExecutable(path)
	case errors.As(err, &pathErr):
		err = pathErr.Err
	case errors.As(err, &execErr):
		err = execErr.Err
	}
	return "", &ExecError{Path: name, Err: err}
}

// checkExecutable finds what execve reports too late or not clearly: it kills a process whose file is cut off.
func checkExecutable(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return nil // executable and not readable is allowed; execve decides
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	start := make([]byte, 256) // all that the kernel reads of a script
	n, _ := io.ReadFull(file, start)
	switch start = start[:n]; {
	case bytes.HasPrefix(start, []byte("\x7fELF")):
		err = checkELF(file, info.Size(), path)
	case bytes.HasPrefix(start, []byte("#!")):
		err = checkInterpreter(start[2:])
	default:
		err = errors.Join(errNoFormat, syscall.ENOEXEC)
	}
	if err != nil {
		return &ExecError{Path: path, Err: err}
	}
	return nil
}

// checkInterpreter finds the program that a script names, whose absence the kernel reports as if the script's.
func checkInterpreter(line []byte) error {
	line, _, _ = bytes.Cut(line, []byte("\n"))
	words := bytes.Fields(line)
	if len(words) == 0 {
		return errors.Join(errNoFormat, syscall.ENOEXEC)
	}
	if _, err := os.Stat(string(words[0])); err != nil {
		return fmt.Errorf("the interpreter in its first line: %w", err)
	}
	return nil
}

var errNoFormat = errors.New("neither an ELF file nor a script that begins with #!")

func checkELF(file io.ReaderAt, size int64, path string) error {
	f, err := objfile.NewFile(file, size, path)
	var format *objfile.FormatError
	if errors.As(err, &format) {
		return fmt.Errorf("malformed ELF file: %s", format.What)
	}
	if err != nil {
		return err
	}
	if f.Interp != "" {
		if _, err := os.Stat(f.Interp); err != nil {
			return fmt.Errorf("its loader: %w", err)
		}
	}
	if f.Class != 64 {
		return errors.New("32-bit programs cannot be traced")
	}
	for _, s := range f.Segments {
		if end := s.Offset + s.Filesz; end > uint64(size) || end < s.Offset {
			return fmt.Errorf("truncated ELF file: a segment ends at byte %d, the file at %d", end, size)
		}
	}
	return nil
}
