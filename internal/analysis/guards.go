package analysis

import (
	_ "embed"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/pelletier/go-toml/v2"

	"bulkhead/internal/syscalls"
)

//go:embed guards.toml
var guardsFile string

// A guard is a function that waits for others, or a part of one: see guards.toml.
type guard struct {
	Object   string   `toml:"object"`
	Function string   `toml:"function"`
	Calls    []string `toml:"calls"`
	Makes    []string `toml:"makes"`
	By       []string `toml:"by"`
	Handed   []string `toml:"handed"`
	Of       []string `toml:"of"`
	Opens    bool     `toml:"opens"`
	Needs    []string `toml:"needs"`
	Callers  []string `toml:"callers"`
	As       string   `toml:"as"`
	Bottom   bool     `toml:"bottom"`
	Wide     bool     `toml:"wide"`
	Never    bool     `toml:"never"`
	Started  bool     `toml:"started"`
	Outside  bool     `toml:"outside"`
	Why      string   `toml:"why"`
	// Named are constants that reached code names, for functions that are entered
	// through pointers alone.
	Named []string `toml:"-"`
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
	for i := range file.Guard {
		if g := &file.Guard[i]; g.Wide {
			g.Needs, g.Outside = wideFunctions, true
		}
	}
	return file.Guard
})

// formatGuard is for calls through pointers, other than those in a stream's table,
// of functions of streams: they enter what was registered for conversions (printf.h).
var formatGuard = &guard{
	Needs:   []string{"register_printf_function", "register_printf_specifier", "register_printf_type"},
	Outside: true,
	Why:     "stdio-common/reg-printf.c, reg-type.c",
}

// guarded maps the guarded functions of an object to their guards.
func (l *linked) guarded() map[uint32][]*guard {
	out := map[uint32][]*guard{}
	for i := range guards() {
		g := &guards()[i]
		if ok, _ := path.Match(g.Object, l.object.Name); !ok {
			continue
		}
		if g.Function == "" {
			l.guardPrivate(g, out)
			continue
		}
		for i := range l.Exports {
			if e := &l.Exports[i]; e.Kind == ExportFunc && matches(g.Function, e.Name) {
				out[e.Func] = append(out[e.Func], g)
			}
		}
	}
	return out
}

// matches reports whether a name is that of a guard, or fits its pattern.
func matches(pattern, name string) bool {
	if !strings.HasSuffix(pattern, "*") {
		return pattern == name
	}
	return strings.HasPrefix(name, strings.TrimSuffix(pattern, "*"))
}

// guardPrivate finds the private functions that fit all that g tells them by.
func (l *linked) guardPrivate(g *guard, out map[uint32][]*guard) {
	exported := map[uint32]bool{}
	callee := map[uint32][]string{}
	marks := map[uint32]map[string]bool{} // by whom a function is called or handed over
	mark := func(f uint32, what string) {
		if marks[f] == nil {
			marks[f] = map[string]bool{}
		}
		marks[f][what] = true
	}
	for i := range l.Exports {
		e := &l.Exports[i]
		if e.Kind != ExportFunc {
			continue
		}
		exported[e.Func] = true
		if slices.Contains(g.Calls, e.Name) {
			callee[e.Func] = append(callee[e.Func], e.Name)
		}
		if slices.Contains(g.By, e.Name) {
			for _, c := range l.calls(e.Func) {
				if c.Kind == CallFunc {
					mark(c.Target, "by "+e.Name)
				}
			}
		}
		if slices.Contains(g.Handed, e.Name) {
			for _, ref := range l.refs(e.Func) {
				if ref.Kind == RefFunc {
					mark(ref.Target, "handed "+e.Name)
				}
			}
		}
	}
	for f := range uint32(len(l.Funcs)) {
		if exported[f] {
			continue
		}
		have := marks[f]
		if have == nil {
			have = map[string]bool{}
		}
		for _, c := range l.calls(f) {
			switch c.Kind {
			case CallFunc:
				for _, name := range callee[c.Target] {
					have[name] = true
				}
			case CallImport:
				have[l.Imports[c.Target].Name] = true
			}
		}
		for _, s := range l.sites(f) {
			if e := l.Exprs[s.Expr]; e.Op == OpConst && s.ABI == SiteAMD64 {
				name, _ := syscalls.Name(syscalls.AMD64, int(e.N))
				have["making "+name] = true
			}
		}
		lacks := func(prefix string, names []string) bool {
			return slices.ContainsFunc(names, func(name string) bool { return !have[prefix+name] })
		}
		if !lacks("", g.Calls) && !lacks("making ", g.Makes) && !lacks("by ", g.By) && !lacks("handed ", g.Handed) {
			out[f] = append(out[f], g)
		}
	}
}

// A held is something that waits for what its guard needs.
type held struct {
	guard *guard
	key   heldKey
	then  func()
}

// A heldKey tells what waits: a function, or what it does at an instruction.
type heldKey struct {
	f   fid
	off uint32
	nr  int64 // system call number, or the function called
}

// guard prepares the guards of an object.
func (r *reach) guard(l *linked) {
	for fn, list := range l.guarded() {
		r.guards[l.first+fn] = slices.DeleteFunc(list, func(g *guard) bool { return g.Started && r.objects[0].Static })
	}
	r.guardWide(l)
	r.guardServices(l)
}

// ignores reports whether a guard says of function to that it does nothing when f
// calls it.
func (r *reach) ignores(f, to fid) bool {
	for _, g := range r.guards[to] {
		if len(g.Callers) > 0 && !slices.ContainsFunc(g.Callers, func(name string) bool {
			return slices.ContainsFunc(r.defs[name], func(d binding) bool {
				return d.export.Kind == ExportFunc && d.object.first+d.export.Func == f
			})
		}) {
			return true
		}
	}
	return false
}

// standIn returns the function that a conduit's call of to counts as.
func (r *reach) standIn(l *linked, to fid) fid {
	if !l.conduit {
		return to
	}
	for _, g := range r.guards[to] {
		if b := r.lookup(g.As, ""); g.As != "" && b.object != nil && b.export.Kind == ExportFunc {
			return b.object.first + b.export.Func
		}
	}
	return to
}

// met reports whether something that a guard needs is reachable.
func (r *reach) met(g *guard) bool {
	if g.Wide && r.wide {
		return true
	}
	if slices.ContainsFunc(g.Named, func(name string) bool { return r.constants[name] }) {
		return true
	}
	for _, name := range g.Needs {
		for _, d := range r.defs[name] {
			if d.export.Kind != ExportFunc {
				continue
			}
			f := d.object.first + d.export.Func
			if r.reached[f] && (!g.Outside || r.outside[f]) {
				return true
			}
		}
	}
	return false
}

// waits reports whether something that function f does, or f itself if name is
// empty, waits for what a guard needs; then is called once that is reachable.
func (r *reach) waits(f fid, name string, key heldKey, then func()) bool {
	for _, g := range r.guards[f] {
		if len(g.Needs) == 0 && !g.Never || name == "" && (len(g.Of) > 0 || g.Opens) || name != "" && !slices.Contains(g.Of, name) || r.met(g) {
			continue
		}
		r.hold(g, key, then)
		return true
	}
	return false
}

// hold keeps then until what g needs is reachable.
func (r *reach) hold(g *guard, key heldKey, then func()) {
	if !slices.ContainsFunc(r.held, func(h held) bool { return h.key == key }) {
		r.held = append(r.held, held{g, key, then})
	}
}

// opensNothing reports whether f's calls through pointers wait for what is not
// reachable. It is asked when all that can be reached is.
func (r *reach) opensNothing(f fid) bool {
	return slices.ContainsFunc(r.guards[f], func(g *guard) bool { return g.Opens && !r.met(g) })
}

// waitsToCall reports whether f's call of exported function to waits.
func (r *reach) waitsToCall(l *linked, f fid, c uint32, to fid) bool {
	if r.guards[f] == nil {
		return false
	}
	o := r.owner[to]
	for i := range o.Exports {
		if e := &o.Exports[i]; e.Kind == ExportFunc && e.Func == to-o.first &&
			r.waits(f, e.Name, heldKey{f, l.Calls[c].Off, int64(to)}, func() { r.connect(l, f, c, to) }) {
			return true
		}
	}
	return false
}

// waitsToMake reports whether system call n of f waits.
func (r *reach) waitsToMake(f fid, s Site, n int64) bool {
	if r.guards[f] == nil || s.ABI != SiteAMD64 {
		return false
	}
	name, _ := syscalls.Name(syscalls.AMD64, int(n))
	return r.waits(f, name, heldKey{f, s.Off, n}, func() { r.number(f, s, n) })
}

// release goes on with what waits no longer, and reports whether that gave work.
func (r *reach) release() bool {
	todo := r.held
	r.held = nil
	for _, h := range todo {
		if r.met(h.guard) {
			h.then()
		} else {
			r.held = append(r.held, h)
		}
	}
	return len(r.work) > 0
}
