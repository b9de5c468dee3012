// Package files reads files.
package files

import (
	"io"
	"os"
)

// A Source can be opened.
type Source interface{ Open() (*os.File, error) }

// Path is a file's.
type Path string

// Open is small enough to be inlined into other modules.
func (p Path) Open() (*os.File, error) { return os.Open(string(p)) }

// Copy reads a source to its end.
func Copy(from Source) error {
	f, err := from.Open()
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(f, 1<<16))
	return err
}
