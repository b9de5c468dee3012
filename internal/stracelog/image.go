package stracelog

import (
	"slices"
	"strconv"
	"strings"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

// image is a program image: what its calls say, until the end of the log tells
// which file it was.
type image struct {
	exec string // as passed to execve, "" if the log does not have that
	// same is the image that this one turned out to be: that of a child whose
	// parent was not known at its first call.
	same    *image
	builder *attribution.Builder
	program *attribution.ProgramBuilder
	objects map[string]attribution.ObjectID
	// outermost counts the stacks that begin in each object that is neither a
	// conduit nor a library: the program's own file wins.
	outermost map[string]int
}

func newImage(exec string, abi syscalls.ABI) *image {
	b := attribution.NewBuilder()
	return &image{
		exec:      exec,
		builder:   b,
		program:   b.Program(exec, "", attribution.ABI(abi.String())),
		objects:   make(map[string]attribution.ObjectID),
		outermost: make(map[string]int),
	}
}

// canonical follows same to the image that counts.
func (m *image) canonical() *image {
	for m.same != nil {
		m = m.same
	}
	return m
}

// add charges one call to the stack's origin, a call without a stack to
// [unknown]. cloned says that clone gave the thread a stack of its own.
func (m *image) add(c attribution.Call, stack []*frame, cloned bool) {
	sites, end := m.sites(stack)
	o := attribution.Observation{Call: c, Count: 1, Evidence: attribution.Traced, Stack: sites}
	o.Origin, o.Via, o.Chain = m.program.Charge(sites, end == whole || end == ofClone && cloned)
	if end == broken && o.Origin != attribution.UnknownID {
		m.program.BrokenStacks++
		o.Stack = nil // a whole one is the better example
	}
	m.program.Add(o)
}

// sites translates a stack up to the first frame without a file and says what
// its outer end means. The walk begins where the call was made, so an innermost
// frame without a file is anonymous code; further out it may as well be the
// walk that went astray.
func (m *image) sites(stack []*frame) (sites []attribution.Site, end outer) {
	if len(stack) == 0 {
		return nil, broken
	}
	if stack[0].path == "" {
		return []attribution.Site{{Object: m.object(attribution.Anonymous, false)}}, broken
	}
	sites = make([]attribution.Site, 0, len(stack))
	for _, f := range stack {
		if f.path == "" {
			return sites, broken
		}
		sites = append(sites, attribution.Site{Object: m.object(f.path, f.conduit), Function: f.function, Offset: f.offset})
	}
	last := stack[len(stack)-1]
	if last.outer == whole && !last.conduit {
		m.outermost[last.path]++
	}
	return sites, last.outer
}

func (m *image) object(path string, conduit bool) attribution.ObjectID {
	id, ok := m.objects[path]
	if !ok {
		id = m.program.Object(path, "", "", conduit)
		m.objects[path] = id
	}
	return id
}

// path finds the image's file. execve may have been given a link, a script or a
// path relative to a folder that the log does not tell; the stacks have the
// real file.
func (m *image) path() string {
	c := m.canonical()
	if _, ok := c.objects[c.exec]; ok {
		return c.exec
	}
	paths := make([]string, 0, len(c.outermost))
	for p := range c.outermost {
		paths = append(paths, p)
	}
	if len(paths) == 0 {
		if c.exec != "" {
			return c.exec
		}
		return attribution.Unknown
	}
	base := attribution.ObjectName(c.exec)
	return slices.MinFunc(paths, func(a, b string) int {
		if aa, bb := attribution.ObjectName(a) == base, attribution.ObjectName(b) == base; aa != bb {
			if aa {
				return -1
			}
			return 1
		}
		if d := c.outermost[b] - c.outermost[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
}

// document has the one program under its real path.
func (m *image) document() *attribution.Document {
	path := m.path()
	d := m.builder.Document()
	d.Programs[0].Path = path
	return d
}

// callNamed finds the number of a call. A name that only the i386 table has
// is a call by int 0x80 of which the log did not say so.
func callNamed(name []byte, abi syscalls.ABI) (attribution.Call, bool) {
	if hex, ok := strings.CutPrefix(string(name), "syscall_0x"); ok {
		nr, err := strconv.ParseInt(hex, 16, 64)
		return attribution.Call{ABI: attribution.ABI(abi.String()), NR: int(nr)}, err == nil
	}
	for _, a := range []syscalls.ABI{abi, syscalls.I386} {
		if nr, ok := syscalls.Number(a, string(name)); ok {
			return attribution.Call{ABI: attribution.ABI(a.String()), NR: nr, Name: string(name)}, true
		}
	}
	return attribution.Call{}, false
}
