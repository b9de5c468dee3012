package dso

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLinks is the kernel's own limit on symbolic links in one path (MAXSYMLINKS).
const maxLinks = 40

// A root is the file system that paths are looked up in: the machine's, or an
// unpacked image below a directory.
type root struct {
	dir   string          // "" for the machine's
	plain map[string]bool // directories that were found to be no links
}

func newRoot(dir string) root {
	return root{dir: strings.TrimSuffix(dir, "/"), plain: map[string]bool{}}
}

// host returns the path on this machine of a path inside the root that holds no
// symbolic links any more.
func (r root) host(p string) string {
	if r.dir == "" {
		return p
	}
	return filepath.Join(r.dir, p)
}

// resolve follows every symbolic link of the absolute path p, inside the root:
// an absolute link starts again at the root and ".." stops there, as after
// chroot(2). The result is a path inside the root.
func (r root) resolve(p string) (string, error) {
	todo := strings.Split(p, "/")
	done := "/"
	links := 0
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, name)
		if r.plain[next] {
			done = next
			continue
		}
		target, err := os.Readlink(r.host(next))
		if err != nil {
			var pe *fs.PathError
			if errors.As(err, &pe) && errors.Is(err, fs.ErrNotExist) {
				return "", fmt.Errorf("%s: %w", r.host(next), fs.ErrNotExist)
			}
			if errors.Is(err, syscall.EINVAL) && len(todo) > 0 {
				r.plain[next] = true
			}
			done = next // not a link, or the next step will say what is wrong
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("resolve %s: more than %d symbolic links", p, maxLinks)
		}
		if strings.HasPrefix(target, "/") {
			done = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return done, nil
}

// regular resolves p and tells whether a regular file is there.
func (r root) regular(p string) (resolved string, info fs.FileInfo, ok bool) {
	resolved, err := r.resolve(p)
	if err != nil {
		return "", nil, false
	}
	info, err = os.Lstat(r.host(resolved))
	if err != nil || !info.Mode().IsRegular() {
		return "", nil, false
	}
	return resolved, info, true
}

// read returns the content of a small configuration file inside the root, and
// nil when it cannot be read or is larger than limit bytes.
func (r root) read(p string, limit int64) []byte {
	resolved, info, ok := r.regular(p)
	if !ok || info.Size() > limit {
		return nil
	}
	data, err := os.ReadFile(r.host(resolved))
	if err != nil {
		return nil
	}
	return data
}
