package dso

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"bulkhead/internal/objfile"
)

// maxObjects bounds the closure of a hostile program.
const maxObjects = 4096

// Options changes where objects are looked for. The zero value describes a
// program started on this machine with an empty environment.
type Options struct {
	// Sysroot is a directory that takes the place of "/", symbolic links in it
	// included. Program and library paths are inside it.
	Sysroot string
	// LibraryPath holds the directories of LD_LIBRARY_PATH.
	LibraryPath []string
	// Preload holds the objects of LD_PRELOAD, loaded right after the program.
	Preload []string
	// With holds objects that the program opens later (dlopen): they and what
	// they need come after everything loaded at the start.
	With []string
	// Hwcaps holds the glibc-hwcaps subdirectories to search, best first; nil
	// means those of this machine's processor.
	Hwcaps []string
}

// An Object is one file that is mapped into the process.
type Object struct {
	// Name is the file name without its folder, after symbolic links.
	Name string
	// Path is the path to open on this machine, symbolic links resolved.
	Path string
	// Target is the same path inside the sysroot; equal to Path without one.
	Target string
	// Soname is DT_SONAME, or "".
	Soname string
	// Interp marks the dynamic loader.
	Interp bool
	// Preloaded marks an LD_PRELOAD object, Opened one that is not loaded at the
	// start (Options.With and what only it needs).
	Preloaded, Opened bool
	// Needed holds the objects of the DT_NEEDED entries, in order; nil where one
	// is missing.
	Needed []*Object
	// RequestedAs holds the names under which the object was asked for.
	RequestedAs []string

	parent         *Object // the object whose DT_NEEDED first asked for it
	rpath, runpath []string
	noDefaultLib   bool
	needed         []string
}

// Missing is a DT_NEEDED name that no search directory has.
type Missing struct {
	Name   string
	Needed string // path of the object that asks for it
}

// Closure returns the objects that a start of the program at path maps, in
// symbol search order: the program, preloaded objects, then DT_NEEDED entries
// breadth first; the dynamic loader stands where it is first needed, else last.
// The objects of a static program are the program alone; those of a library, which
// has no dynamic loader of its own, are it and what it needs.
func Closure(path string, opts Options) ([]*Object, []Missing, error) {
	s, err := Load(path, opts)
	if err != nil {
		return nil, nil, err
	}
	return s.objects, s.missing, nil
}

// Load is Closure for callers that open more objects later.
func Load(path string, opts Options) (*Set, error) {
	s := newSet(opts)
	if err := s.start(path); err != nil {
		return nil, err
	}
	return s, nil
}

// Objects returns the objects in symbol search order; objects opened later come
// at the end.
func (l *Set) Objects() []*Object { return l.objects }

// Missing returns the DT_NEEDED entries that were not found.
func (l *Set) Missing() []Missing { return l.missing }

// Open adds what dlopen(3) of a name by the object adds: nothing if it is there
// already. It returns the object, nil if there is no such library.
func (l *Set) Open(name string, by *Object) (*Object, error) {
	missing := len(l.missing)
	l.opened = true
	from := len(l.objects)
	o := l.need(name, by)
	l.missing = l.missing[:missing]
	if o == nil {
		return nil, nil
	}
	return o, l.breadthFirst(from)
}

// Glob returns the paths of files in the default library directories, and the
// directories themselves, that match a pattern such as "security/*.so".
func (l *Set) Glob(pattern string) []string {
	var out []string
	seen := map[string]bool{}
	for _, dir := range l.defaultDirs() {
		if l.musl != nil {
			break
		}
		resolved, err := l.root.resolve(path.Join(dir, path.Dir(pattern)))
		if err != nil || seen[resolved] {
			continue
		}
		seen[resolved] = true
		entries, err := os.ReadDir(l.root.host(resolved))
		if err != nil {
			continue
		}
		for _, e := range entries {
			if ok, _ := path.Match(path.Base(pattern), e.Name()); ok {
				out = append(out, path.Join(resolved, e.Name()))
			}
		}
	}
	return out
}

// ReadConfig returns the content of a file of the program's file system, at most
// 1 MiB, or nil.
func (l *Set) ReadConfig(name string) []byte { return l.root.read(name, 1<<20) }

// A Set is the objects of one program.
type Set struct {
	opts    Options
	root    root
	class   int
	machine elf.Machine
	musl    *muslRules // nil under glibc

	objects []*Object
	missing []Missing
	byName  map[string]*Object
	byFile  map[string]*Object // by resolved path inside the root
	interp  *Object
	opened  bool // now loading what is opened later

	cache     map[string][]cacheEntry
	cacheRead bool
}

func newSet(opts Options) *Set {
	if opts.Hwcaps == nil {
		opts.Hwcaps = machineHwcaps()
	}
	return &Set{opts: opts, root: newRoot(opts.Sysroot), byName: map[string]*Object{}, byFile: map[string]*Object{}}
}

func (l *Set) start(program string) error {
	if !path.IsAbs(program) {
		if l.root.dir != "" {
			program = "/" + program
		} else if wd, err := os.Getwd(); err == nil {
			program = path.Join(wd, program)
		}
	}
	resolved, err := l.root.resolve(program)
	if err != nil {
		return fmt.Errorf("find program: %w", err)
	}
	f, err := objfile.Open(l.root.host(resolved))
	if err != nil {
		return err
	}
	interp, class, machine := f.Interp, f.Class, f.Machine
	f.Close()
	l.class, l.machine = class, machine
	if interp != "" {
		l.musl = l.muslFor(interp)
	}
	main, err := l.load(resolved, program, nil)
	if err != nil {
		return err
	}
	if interp == "" { // a static program, or a library by itself
		if err := l.breadthFirst(0); err != nil {
			return err
		}
		return l.openLater(main)
	}
	if err := l.addInterp(interp, program); err != nil {
		return err
	}
	for _, name := range l.preloads() {
		if o := l.need(name, main); o != nil {
			o.Preloaded = true
		}
	}
	if err := l.breadthFirst(0); err != nil {
		return err
	}
	if l.interp != nil && !l.contains(l.interp) {
		l.objects = append(l.objects, l.interp)
		if err := l.breadthFirst(len(l.objects) - 1); err != nil {
			return err
		}
	}
	return l.openLater(main)
}

// openLater adds the objects of Options.With and what they need.
func (l *Set) openLater(main *Object) error {
	l.opened = true
	for _, name := range l.opts.With {
		from := len(l.objects)
		l.need(name, main)
		if err := l.breadthFirst(from); err != nil {
			return err
		}
	}
	return nil
}

// breadthFirst loads what the objects from index i on need, objects that this
// adds included.
func (l *Set) breadthFirst(i int) error {
	for ; i < len(l.objects); i++ {
		o := l.objects[i]
		if len(l.objects)+len(o.needed) > maxObjects {
			return fmt.Errorf("load %s: more than %d objects", l.objects[0].Path, maxObjects)
		}
		if o.Needed != nil {
			continue
		}
		o.Needed = make([]*Object, len(o.needed))
		for j, name := range o.needed {
			o.Needed[j] = l.need(name, o)
		}
	}
	return nil
}

// need finds the object that by's DT_NEEDED entry means, loads it if it is new,
// and notes it as missing when there is none.
func (l *Set) need(name string, by *Object) *Object {
	if o := l.byName[name]; o != nil {
		l.enter(o)
		return o
	}
	for _, candidate := range l.candidates(name, by) {
		resolved, _, ok := l.root.regular(candidate)
		if !ok {
			continue
		}
		o := l.byFile[resolved]
		if o == nil {
			var err error
			// A file of another architecture is passed over, as ld.so does; so is
			// one that is not an ELF file at all, where ld.so would stop.
			if o, err = l.load(resolved, candidate, by); err != nil {
				continue
			}
		} else {
			l.enter(o)
		}
		l.byName[name] = o
		o.RequestedAs = append(o.RequestedAs, name)
		return o
	}
	l.missing = append(l.missing, Missing{Name: name, Needed: by.Path})
	return nil
}

// enter puts the dynamic loader, known before it is needed, in the search order.
func (l *Set) enter(o *Object) {
	if o == l.interp && !l.contains(o) {
		l.objects = append(l.objects, o)
	}
}

func (l *Set) contains(o *Object) bool {
	for _, have := range l.objects {
		if have == o {
			return true
		}
	}
	return false
}

// errOtherABI says that a file is for another architecture or class.
var errOtherABI = errors.New("object of another architecture")

// load reads the object at a resolved path and appends it to the search order.
// asked is the path before symbolic links, from which $ORIGIN is taken.
func (l *Set) load(resolved, asked string, parent *Object) (*Object, error) {
	o, err := l.read(resolved, asked)
	if err != nil {
		return nil, err
	}
	o.parent = parent
	o.Opened = l.opened
	l.objects = append(l.objects, o)
	return o, nil
}

func (l *Set) read(resolved, asked string) (*Object, error) {
	host := l.root.host(resolved)
	f, err := objfile.Open(host)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.Class != l.class || f.Machine != l.machine {
		return nil, fmt.Errorf("open %s: %w", host, errOtherABI)
	}
	if err := f.Whole(); err != nil {
		return nil, err
	}
	o := &Object{Name: path.Base(resolved), Path: host, Target: resolved}
	dyn, err := f.Dynamic()
	if err != nil {
		return nil, err
	}
	if dyn != nil {
		o.Soname = dyn.Soname
		o.needed = dyn.Needed
		// $ORIGIN is the folder of the file itself: glibc takes it from the real
		// path, musl from the path that was opened.
		origin := path.Dir(resolved)
		if l.musl != nil {
			origin = path.Dir(asked)
		}
		o.rpath = l.expandPath(dyn.Rpath, origin)
		o.runpath = l.expandPath(dyn.Runpath, origin)
		o.noDefaultLib = uint64(dyn.Flags1)&uint64(elf.DF_1_NODEFLIB) != 0
		for i, name := range o.needed {
			o.needed[i] = l.expand(name, origin)
		}
	}
	l.byFile[resolved] = o
	if o.Soname != "" && l.byName[o.Soname] == nil {
		l.byName[o.Soname] = o
	}
	return o, nil
}

// addInterp reads the dynamic loader; its place in the order comes later.
func (l *Set) addInterp(interp, program string) error {
	resolved, _, ok := l.root.regular(interp)
	if !ok {
		return fmt.Errorf("load %s: dynamic loader %s: %w", program, interp, fs.ErrNotExist)
	}
	o, err := l.read(resolved, interp)
	if err != nil {
		return fmt.Errorf("load %s: dynamic loader: %w", program, err)
	}
	o.Interp = true
	o.RequestedAs = []string{interp}
	l.interp = o
	l.byName[interp] = o
	l.byName[path.Base(interp)] = o
	if l.musl != nil {
		for _, name := range muslOwnNames {
			l.byName[name] = o
		}
	}
	return nil
}

// preloads returns LD_PRELOAD's objects and then those of /etc/ld.so.preload.
func (l *Set) preloads() []string {
	names := append([]string(nil), l.opts.Preload...)
	if l.musl != nil {
		return names
	}
	for line := range strings.Lines(string(l.root.read("/etc/ld.so.preload", 1<<20))) {
		line, _, _ = strings.Cut(line, "#")
		names = append(names, strings.FieldsFunc(line, func(r rune) bool {
			return r == ' ' || r == ':' || r == '\t' || r == '\n'
		})...)
	}
	return names
}

// expandPath splits a search path at its colons and expands each directory; an
// empty element is the working directory, which a static look cannot know.
func (l *Set) expandPath(list, origin string) []string {
	var dirs []string
	for _, d := range strings.Split(list, ":") {
		if d = l.expand(d, origin); d != "" {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

// expand replaces the dynamic string tokens of ld.so(8).
func (l *Set) expand(s, origin string) string {
	if !strings.Contains(s, "$") {
		return s
	}
	lib, platform := "lib", "i686"
	if l.class == 64 {
		lib, platform = "lib64", "x86_64"
		if dir := multiarch(l.machine, l.class); dir != "" && l.isDir("/lib/"+dir) {
			lib = "lib/" + dir // Debian's glibc is configured so
		}
		if l.machine == elf.EM_AARCH64 {
			platform = "aarch64"
		}
	}
	return strings.NewReplacer(
		"${ORIGIN}", origin, "$ORIGIN", origin,
		"${LIB}", lib, "$LIB", lib,
		"${PLATFORM}", platform, "$PLATFORM", platform,
	).Replace(s)
}

func (l *Set) isDir(p string) bool {
	resolved, err := l.root.resolve(p)
	if err != nil {
		return false
	}
	info, err := os.Lstat(l.root.host(resolved))
	return err == nil && info.IsDir()
}
