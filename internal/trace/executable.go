package trace

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"bulkhead/internal/objfile"
)

// ExecError says that a command could not be started at all, and no fault of ours. Err is fs.ErrNotExist or
// exec.ErrNotFound when there is no such file.
type ExecError struct {
	Path string
	Err  error
}

func (e *ExecError) Error() string { return e.Path + ": " + e.Err.Error() }
func (e *ExecError) Unwrap() error { return e.Err }

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
	return "", &ExecError{name, err}
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
	var start [4]byte
	if _, err := io.ReadFull(file, start[:]); err != nil || string(start[:]) != "\x7fELF" {
		if string(start[:2]) == "#!" {
			return nil
		}
		return &ExecError{path, errors.Join(errNoFormat, syscall.ENOEXEC)}
	}
	if err := checkELF(file, info.Size(), path); err != nil {
		return &ExecError{path, err}
	}
	return nil
}

var errNoFormat = errors.New("neither an ELF file nor a script that begins with #!")

func checkELF(file io.ReaderAt, size int64, path string) error {
	f, err := objfile.NewFile(file, size, path)
	if err != nil {
		return err
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
