package analysis

import (
	"fmt"

	"bulkhead/internal/attribution"
	"bulkhead/internal/dso"
	"bulkhead/internal/objfile"
	"bulkhead/internal/syscalls"
)

// Options says how a program is analysed.
type Options struct {
	// Loading says where objects are looked for, and which are opened later.
	Loading dso.Options
	// Conduits are the objects whose system calls are charged to their callers.
	Conduits attribution.Conduits
	// Summaries keeps summaries between runs; nil does without.
	Summaries *Cache
	// Progress, if set, is called with each object before it is summarised.
	Progress func(path string)
}

// A Result is the analysis of one program.
type Result struct {
	charge  *charge
	origins []origin
	missing []dso.Missing
	path    string
	names   *namer
}

// Analyze computes what the program at path can do.
func Analyze(path string, opts Options) (*Result, error) {
	objects, missing, err := dso.Closure(path, opts.Loading)
	if err != nil {
		return nil, err
	}
	summaries, err := summarizeAll(objects, opts)
	if err != nil {
		return nil, err
	}
	p := newProgram(objects, summaries, opts.Conduits)
	r := newReach(p)
	r.run()
	c := newCharge(r)
	origins := c.origins()
	c.chargeRest(origins)
	return &Result{charge: c, origins: origins, missing: missing, path: objects[0].Path, names: newNamer(p)}, nil
}

func summarizeAll(objects []*dso.Object, opts Options) ([]*Summary, error) {
	out := make([]*Summary, len(objects))
	for i, o := range objects {
		if opts.Progress != nil {
			opts.Progress(o.Path)
		}
		s, err := summarizeFile(o.Path)
		if err != nil {
			return nil, err
		}
		out[i] = s
	}
	return out, nil
}

func summarizeFile(path string) (*Summary, error) {
	f, err := objfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s, err := Summarize(f)
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	return s, nil
}

// Union returns the names of all system calls of the program.
func (r *Result) Union() []string {
	var set callset
	for i := range r.origins {
		set.union(&r.origins[i].set)
	}
	var names []string
	set.each(func(i int) {
		no := r.charge.calls[i]
		name, ok := syscalls.Name(no.abi, no.nr)
		if !ok {
			name = fmt.Sprintf("syscall_%d", no.nr)
		}
		names = append(names, name)
	})
	return names
}
