package analysis

import (
	"runtime"

	"golang.org/x/sync/errgroup"

	"bulkhead/internal/attribution"
	"bulkhead/internal/dso"
	"bulkhead/internal/region"
)

// Options says how a program is analysed.
type Options struct {
	// Loading says where objects are looked for, and which are opened later.
	Loading dso.Options
	// Conduits are the objects whose system calls are charged to their callers.
	Conduits attribution.Conduits
	// GoBy says what Go programs are divided by, and Symbols are compartments that
	// have functions of any object.
	GoBy    region.GoBy
	Symbols []region.Symbols
	// Summaries keeps summaries between runs; nil does without.
	Summaries *Cache
	// Plugins are the libraries that others open by names that are not in their
	// code; nil means LoadPlugins("").
	Plugins Plugins
	// LeaveOut makes open ends of the plug-ins, instead of following them.
	LeaveOut bool
	// Progress, if set, is called with each object before it is summarised.
	Progress func(path string)
}

// complete fills in what was left to the defaults.
func (o *Options) complete() (err error) {
	if o.Plugins == nil {
		o.Plugins, err = LoadPlugins("")
	}
	return err
}

// A Result is the analysis of one program.
type Result struct {
	charge  *charge
	origins []origin
	missing []dso.Missing
	path    string
	names   *namer
	asked   *asker
	golang  []*goProgram // by object; nil for those that are not Go's
}

// Analyze computes what the program at path can do; of a shared library, what it
// can do for a program that calls any of its exported functions.
func Analyze(path string, opts Options) (*Result, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	set, err := dso.Load(path, opts.Loading)
	if err != nil {
		return nil, err
	}
	asked := newAsker(set)
	p := &program{defs: map[string][]binding{}}
	if _, err := extend(p, set, &opts); err != nil {
		return nil, err
	}
	r := newReach(p)
	r.set, r.plugins, r.leaveOut, r.closed = asked, opts.Plugins, opts.LeaveOut, len(opts.Loading.With) > 0
	r.run()
	if library, err := IsLibrary(p.objects[0].object.Path); err != nil {
		return nil, err
	} else if library {
		r.lookUpAll(p.objects[0], place{fn: noFunc}, nil)
		r.drain()
	}
	if err := r.openAll(&opts); err != nil {
		return nil, err
	}
	r.resolveBroadcasts()
	c := newCharge(r)
	origins := c.origins()
	c.chargeRest(origins)
	golang := make([]*goProgram, len(p.objects))
	for i, l := range p.objects {
		golang[i], err = c.divideGo(l, region.Options{GoBy: opts.GoBy, Symbols: opts.Symbols, Conduits: opts.Conduits})
		if err != nil {
			return nil, err
		}
		if golang[i] != nil {
			c.chargeC(&origins[i], golang[i])
		}
	}
	return &Result{
		charge: c, origins: origins, missing: set.Missing(), path: p.objects[0].object.Target, names: newNamer(p), asked: asked, golang: golang,
	}, nil
}

// extend adds the objects of the set that the program does not have yet.
func extend(p *program, set *dso.Set, opts *Options) ([]*linked, error) {
	objects := set.Objects()[len(p.objects):]
	summaries, contents, err := summarizeAll(objects, opts)
	if err != nil {
		return nil, err
	}
	p.contents = append(p.contents, contents...)
	var added []*linked
	for i, o := range objects {
		added = append(added, p.add(o, summaries[i], opts.Conduits))
	}
	return added, nil
}

// openAll links the libraries that reached code opens, and those that these
// open, until there are no more.
func (r *reach) openAll(opts *Options) error {
	for _, l := range r.objects {
		if l.object.Opened {
			r.lookUpAll(l, place{fn: noFunc}, nil) // the user says so
		}
	}
	r.drain()
	for len(r.opening) > 0 {
		todo := r.opening
		r.opening = nil
		for _, o := range todo {
			// A library that is not installed cannot be opened.
			opened, err := r.set.Open(o.load.name, o.by.object)
			if err != nil {
				return err
			}
			added, err := extend(r.program, r.set.Set, opts)
			if err != nil {
				return err
			}
			r.grow()
			for _, l := range added {
				r.roots(l)
			}
			// Of the C library only what others import or look up by name is used.
			l := r.linkedOf(opened)
			if l != nil {
				r.uses = append(r.uses, dependency{o.by, l})
			}
			if l != nil && !l.conduit && l.index != 0 {
				r.lookUpAll(l, o.at, o.load.symbols)
			}
		}
		for name, at := range r.symbols {
			r.lookUp(name, at[0])
		}
		r.drain()
	}
	return nil
}

func (r *reach) linkedOf(o *dso.Object) *linked {
	for _, l := range r.objects {
		if l.object == o {
			return l
		}
	}
	return nil
}

// summarizeAll summarises objects side by side.
func summarizeAll(objects []*dso.Object, opts *Options) ([]*Summary, []contentHash, error) {
	out, contents := make([]*Summary, len(objects)), make([]contentHash, len(objects))
	triggers := opts.Plugins.triggers()
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, o := range objects {
		if opts.Progress != nil {
			opts.Progress(o.Path)
		}
		g.Go(func() (err error) {
			out[i], contents[i], err = opts.Summaries.summary(o.Path, triggers)
			return err
		})
	}
	return out, contents, g.Wait()
}

// Union returns the names of all system calls of the program.
func (r *Result) Union() []string {
	var set callset
	for i := range r.origins {
		set.union(&r.origins[i].set)
	}
	for _, g := range r.golang {
		if g != nil {
			for _, o := range g.origins() {
				set.union(&o.set)
			}
		}
	}
	var names []string
	set.each(func(i int) {
		names = append(names, r.callName(i))
	})
	return names
}
