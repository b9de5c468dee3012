package attribution

import (
	"fmt"
	"path"
	"strings"
)

// defaultConduits are the file names of the C libraries, with the companions
// that older glibc releases keep in files of their own, and of the kernel's
// code in user space.
var defaultConduits = []string{
	// glibc; before 2.34 the files carry the version.
	"libc.so.6", "libc-2.[0-9]*.so",
	"ld-linux-*.so.?", "ld-linux.so.2", "ld-2.[0-9]*.so", "ld64.so.?",
	"libpthread.so.0", "libpthread-2.[0-9]*.so",
	"librt.so.1", "librt-2.[0-9]*.so",
	"libdl.so.2", "libdl-2.[0-9]*.so",
	"libresolv.so.2", "libresolv-2.[0-9]*.so",
	// musl: C library and loader are one file.
	"ld-musl-*.so.1", "libc.musl-*.so.1", "libc.so",
	// the kernel's
	VDSO, "[vsyscall]",
}

// Conduits decides which objects make system calls on behalf of their callers.
// The zero value knows the C libraries and the vDSO.
type Conduits struct {
	patterns []string
}

// NewConduits adds patterns (path.Match syntax) to the default ones. They match
// the file name of an object without the folder, or the name of a part of one: a
// Go module or package.
func NewConduits(patterns ...string) (Conduits, error) {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			return Conduits{}, fmt.Errorf("conduit pattern %q: not a valid file name pattern", p)
		}
		if strings.HasPrefix(p, "/") {
			return Conduits{}, fmt.Errorf("conduit pattern %q: matches file names without the folder, or Go modules", p)
		}
	}
	return Conduits{patterns: patterns}, nil
}

// Match reports whether the object at path is a conduit.
func (c Conduits) Match(path string) bool {
	name := ObjectName(path)
	return matchAny(defaultConduits, name) || matchAny(c.patterns, name)
}

// MatchPart reports whether the part of an object with this name is made a conduit
// by a pattern.
func (c Conduits) MatchPart(name string) bool { return matchAny(c.patterns, name) }

func matchAny(patterns []string, name string) bool {
	for _, p := range patterns {
		// Bracketed names are names, not character classes.
		if p == name {
			return true
		}
		if ok, _ := path.Match(p, name); ok && p[0] != '[' {
			return true
		}
	}
	return false
}
