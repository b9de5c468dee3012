package dso

import (
	"path"
	"strings"
)

// muslOwnNames are the library names that musl's loader answers itself
// (load_library in musl's ldso/dynlink.c).
var muslOwnNames = []string{
	"libc.so", "libpthread.so", "librt.so", "libm.so", "libdl.so",
	"libutil.so", "libxnet.so", "libc.musl-x86_64.so.1", "libc.musl-aarch64.so.1",
}

// muslRules is the search of musl's loader.
type muslRules struct {
	dirs []string // from /etc/ld-musl-ARCH.path, or the built-in list
}

// muslFor returns the rules when interp is musl's loader, else nil. The loader
// derives the place of its configuration from its own path: PREFIX/lib/ld-musl-…
// reads PREFIX/etc/ld-musl-….path.
func (l *Set) muslFor(interp string) *muslRules {
	base := path.Base(interp)
	arch, ok := strings.CutPrefix(base, "ld-musl-")
	if !ok {
		// On some systems the loader is reached through a link under another name.
		resolved, err := l.root.resolve(interp)
		if err != nil || !strings.Contains(resolved, "musl") {
			return nil
		}
		arch = "x86_64.so.1"
	}
	arch, _, _ = strings.Cut(arch, ".")
	prefix := path.Dir(path.Dir(interp))
	conf := l.root.read(path.Join(prefix, "etc", "ld-musl-"+arch+".path"), 1<<20)
	dirs := strings.FieldsFunc(string(conf), func(r rune) bool { return r == ':' || r == '\n' })
	if len(dirs) == 0 {
		dirs = []string{"/lib", "/usr/local/lib", "/usr/lib"}
	}
	return &muslRules{dirs: dirs}
}

// candidates follows musl's order: LD_LIBRARY_PATH, the run paths of the object
// and of those that led to it (DT_RUNPATH hides DT_RPATH), then the path file.
func (m *muslRules) candidates(name string, by *Object, libraryPath []string) []string {
	var paths []string
	add := func(dirs []string) {
		for _, d := range dirs {
			paths = append(paths, path.Join(d, name))
		}
	}
	add(libraryPath)
	for o := by; o != nil; o = o.parent {
		if len(o.runpath) > 0 {
			add(o.runpath)
		} else {
			add(o.rpath)
		}
	}
	add(m.dirs)
	return paths
}
