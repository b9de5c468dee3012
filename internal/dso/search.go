package dso

import (
	"debug/elf"
	"path"
	"strings"

	"golang.org/x/sys/cpu"
)

// candidates lists the paths inside the root where the loader would look for
// name on behalf of by, best first.
func (l *Set) candidates(name string, by *Object) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	if l.musl != nil {
		return l.musl.candidates(name, by, l.opts.LibraryPath)
	}
	var paths []string
	if len(by.runpath) == 0 {
		for o := by; o != nil; o = o.parent {
			if len(o.runpath) == 0 {
				paths = l.inDirs(paths, o.rpath, name)
			}
		}
		// The program's own DT_RPATH serves objects that it did not ask for itself.
		if main := l.objects[0]; len(main.runpath) == 0 {
			paths = l.inDirs(paths, main.rpath, name)
		}
	}
	paths = l.inDirs(paths, l.opts.LibraryPath, name)
	paths = l.inDirs(paths, by.runpath, name)
	if !by.noDefaultLib {
		paths = append(paths, l.cached(name)...)
		paths = l.inDirs(paths, l.defaultDirs(), name)
	}
	return paths
}

// inDirs appends name in each directory, its glibc-hwcaps variants first.
func (l *Set) inDirs(paths, dirs []string, name string) []string {
	for _, dir := range dirs {
		for _, hw := range l.opts.Hwcaps {
			paths = append(paths, path.Join(dir, "glibc-hwcaps", hw, name))
		}
		paths = append(paths, path.Join(dir, name))
	}
	return paths
}

// cached returns the paths of ld.so.cache for name: supported glibc-hwcaps
// variants in order, then the base one. Entries for the hardware capabilities of
// glibc before 2.37 are passed over: the base object does the same job.
func (l *Set) cached(name string) []string {
	if !l.cacheRead {
		l.cacheRead = true
		l.cache = l.readCache()
	}
	var paths []string
	for _, hw := range append(append([]string(nil), l.opts.Hwcaps...), "") {
		for _, e := range l.cache[name] {
			if e.hwcap == hw {
				paths = append(paths, e.path)
			}
		}
	}
	return paths
}

func (l *Set) readCache() map[string][]cacheEntry {
	var want uint32
	switch {
	case l.machine == elf.EM_X86_64 && l.class == 64:
		want = cacheFlagsAMD64
	case l.machine == elf.EM_AARCH64:
		want = cacheFlagsARM64
	case l.machine == elf.EM_386:
		want = cacheFlagsI386
	default:
		return nil
	}
	entries, err := parseCache(l.root.read("/etc/ld.so.cache", 64<<20))
	if err != nil {
		return nil // ld.so goes on without a cache, too
	}
	byName := make(map[string][]cacheEntry, len(entries))
	for _, e := range entries {
		if e.flags == want && !e.legacy {
			byName[e.name] = append(byName[e.name], e)
		}
	}
	return byName
}

// defaultDirs are the directories compiled into the loaders of Debian (multiarch)
// and of the distributions with lib64.
func (l *Set) defaultDirs() []string {
	var dirs []string
	if m := multiarch(l.machine, l.class); m != "" {
		dirs = append(dirs, "/lib/"+m, "/usr/lib/"+m)
	}
	if l.class == 64 {
		dirs = append(dirs, "/lib64", "/usr/lib64")
	}
	return append(dirs, "/lib", "/usr/lib")
}

// multiarch returns Debian's directory name for an architecture.
func multiarch(m elf.Machine, class int) string {
	switch {
	case m == elf.EM_X86_64 && class == 64:
		return "x86_64-linux-gnu"
	case m == elf.EM_AARCH64:
		return "aarch64-linux-gnu"
	case m == elf.EM_386:
		return "i386-linux-gnu"
	}
	return ""
}

// machineHwcaps returns the glibc-hwcaps subdirectories that this processor is
// given, best first (x86-64 psABI §3.1.1).
func machineHwcaps() []string {
	x := &cpu.X86
	levels := []struct {
		name string
		ok   bool
	}{
		{"x86-64-v2", x.HasSSE42 && x.HasPOPCNT && x.HasSSSE3 && x.HasCX16},
		{"x86-64-v3", x.HasAVX2 && x.HasBMI1 && x.HasBMI2 && x.HasFMA && x.HasAVX},
		{"x86-64-v4", x.HasAVX512F && x.HasAVX512BW && x.HasAVX512CD && x.HasAVX512DQ && x.HasAVX512VL},
	}
	names := []string{} // not nil: nil would mean "ask the machine"
	for _, level := range levels {
		if !level.ok {
			break
		}
		names = append([]string{level.name}, names...)
	}
	return names
}
