package analysis

import (
	_ "embed"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/pelletier/go-toml/v2"
)

//go:embed guards.toml
var guardsFile string

// A guard is a function that waits for others: see guards.toml.
type guard struct {
	Object   string   `toml:"object"`
	Function string   `toml:"function"`
	Calls    []string `toml:"calls"`
	Needs    []string `toml:"needs"`
	Why      string   `toml:"why"`
}

var guards = sync.OnceValue(func() []guard {
	var file struct {
		Guard []guard `toml:"guard"`
	}
	d := toml.NewDecoder(strings.NewReader(guardsFile))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		panic("guards.toml: " + err.Error()) // a test reads it
	}
	return file.Guard
})

// guarded maps the guarded functions of an object to the names that they wait
// for.
func (l *linked) guarded() map[uint32][]string {
	out := map[uint32][]string{}
	for _, g := range guards() {
		if ok, _ := path.Match(g.Object, l.object.Name); !ok {
			continue
		}
		if g.Function != "" {
			for i := range l.Exports {
				if e := &l.Exports[i]; e.Name == g.Function && e.Kind == ExportFunc {
					out[e.Func] = g.Needs
				}
			}
			continue
		}
		l.guardCallers(g, out)
	}
	return out
}

// guardCallers finds the private functions that call all of g.Calls.
func (l *linked) guardCallers(g guard, out map[uint32][]string) {
	exported := map[uint32]bool{}
	bit := map[uint32]uint{} // callee -> bits of the names in g.Calls
	for i := range l.Exports {
		e := &l.Exports[i]
		if e.Kind != ExportFunc {
			continue
		}
		exported[e.Func] = true
		if at := slices.Index(g.Calls, e.Name); at >= 0 {
			bit[e.Func] |= 1 << at
		}
	}
	all := uint(1)<<len(g.Calls) - 1
	for f := range l.Funcs {
		if exported[uint32(f)] {
			continue
		}
		var have uint
		for _, c := range l.calls(uint32(f)) {
			switch c.Kind {
			case CallFunc:
				have |= bit[c.Target]
			case CallImport:
				if at := slices.Index(g.Calls, l.Imports[c.Target].Name); at >= 0 {
					have |= 1 << at
				}
			}
		}
		if have == all {
			out[uint32(f)] = g.Needs
		}
	}
}

// A held is a function that was reached and waits.
type held struct {
	f   fid
	why why
}

// guard prepares the guards of an object.
func (r *reach) guard(l *linked) {
	for fn, needs := range l.guarded() {
		r.waits[l.first+fn] = needs
	}
}

// waiting reports whether f waits for a function that is not reached.
func (r *reach) waiting(f fid, because why) bool {
	needs, ok := r.waits[f]
	if !ok {
		return false
	}
	for _, name := range needs {
		for _, d := range r.defs[name] {
			if d.export.Kind == ExportFunc && r.reached[d.object.first+d.export.Func] {
				return false
			}
		}
	}
	if !slices.ContainsFunc(r.held, func(h held) bool { return h.f == f }) {
		r.held = append(r.held, held{f, because})
	}
	return true
}

// release reaches the held functions that wait no longer, and reports whether
// there were any.
func (r *reach) release() bool {
	todo := r.held
	r.held = nil
	before := len(r.work)
	for _, h := range todo {
		r.reach(h.f, h.why)
	}
	return len(r.work) > before
}
