package filecache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Replace puts what write writes into the file at path in one step. A file that
// is there keeps its mode, a symbolic link stays one. What is not a regular file
// (a terminal, a pipe) is written as it comes.
func Replace(path string, write func(io.Writer) error) error {
	mode := fs.FileMode(0)
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if info, err := os.Stat(path); err == nil {
		if !info.Mode().IsRegular() {
			return writeThrough(path, write)
		}
		mode = info.Mode().Perm()
	}
	tmp := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s.%x", filepath.Base(path), rand.Uint64()))
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		// The name of the temporary file is no news to the user.
		return &fs.PathError{Op: "write", Path: path, Err: errors.Unwrap(err)}
	}
	defer os.Remove(tmp)
	err = write(f)
	if err == nil && mode != 0 {
		err = f.Chmod(mode)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func writeThrough(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
