package objfile

import (
	"errors"
	"fmt"
)

// ErrNotELF says that a file does not begin with the ELF magic number.
var ErrNotELF = errors.New("not an ELF file")

// A FormatError reports a file that begins like an ELF file and breaks the
// format further on.
type FormatError struct {
	Name string // the file, as given to Open or NewFile
	Off  uint64 // the file offset or, for loaded tables, the virtual address
	What string // what is wrong there
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s: malformed ELF file: %s (at %#x)", e.Name, e.What, e.Off)
}

// An UnsupportedError reports a valid file that this package does not read, or
// reads only in part. errors.Is(err, errors.ErrUnsupported) holds for it.
type UnsupportedError struct {
	Name string
	What string // what is not supported: "32-bit symbols", "big-endian files"
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s: %s not supported", e.Name, e.What)
}

// Is makes an UnsupportedError match errors.ErrUnsupported.
func (e *UnsupportedError) Is(target error) bool { return target == errors.ErrUnsupported }

func (f *File) malformed(off uint64, format string, args ...any) error {
	return &FormatError{f.Name, off, fmt.Sprintf(format, args...)}
}

// need64 gives the error for what is read from 64-bit files only.
func (f *File) need64(what string) error {
	if f.Class == 64 {
		return nil
	}
	return &UnsupportedError{f.Name, "32-bit " + what}
}
