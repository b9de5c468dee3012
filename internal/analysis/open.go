package analysis

import (
	"path"
	"slices"
	"strings"
)

// isLibraryName reports whether a constant string looks like the name of a
// shared library: what code names so, it may open.
func isLibraryName(s string) bool {
	i := strings.LastIndex(s, ".so")
	if i <= 0 || len(s) > 255 || strings.ContainsAny(s, " %\"'<>|()*?$\t\n,;:=") {
		return false
	}
	for _, c := range s[i+3:] {
		if c != '.' && (c < '0' || c > '9') {
			return false
		}
	}
	return s[i-1] != '/'
}

// named handles a constant string that reached code names.
func (r *reach) named(l *linked, at place, text string) {
	if strings.Contains(text, wideMode) && !l.conduit {
		r.wide = true
	}
	r.nameService(text)
	plugins := r.plugins.loads(l.object, text, r.set)
	if isLibraryName(text) && !slices.ContainsFunc(plugins, func(x pluginLoad) bool { return x.name == text }) {
		r.want(l, at, pluginLoad{name: text})
	}
	for _, x := range plugins {
		if r.leaveOut && x.name != text {
			r.openEnds[at] = "plug-ins, which were left out: " + text
			continue
		}
		r.want(l, at, x)
	}
}

// want notes that a library may be opened.
func (r *reach) want(l *linked, at place, x pluginLoad) {
	key := x.name + "\x00" + strings.Join(x.symbols, "\x00")
	if r.wanted[key] {
		return
	}
	r.wanted[key] = true
	r.opening = append(r.opening, opening{l, at, x})
}

// An opening is a library that code may open.
type opening struct {
	by   *linked
	at   place
	load pluginLoad
}

// dynamicLoads are the functions that open a library, by the register of its
// name; dynamicSymbols those that look a symbol up.
var (
	dynamicLoads   = map[string]uint8{"dlopen": 7, "dlmopen": 6}
	dynamicSymbols = map[string]uint8{"dlsym": 6, "dlvsym": 6}
)

// dynamic handles a call of dlopen, dlsym and their kin.
func (r *reach) dynamic(l *linked, f fid, c uint32, name string) {
	at := place{f, l.Calls[c].Off}
	if name == "__nss_configure_lookup" && !l.conduit {
		r.openEnds[at] = name + ", which chooses name services at run time: give their libraries with --with"
	}
	if reg, ok := dynamicLoads[name]; ok {
		text, known := l.text(c, reg)
		switch {
		case known:
			r.want(l, at, pluginLoad{name: text})
		case l.zero(c, reg): // the program itself
		case !l.conduit:
			r.openEnds[at] = name + " of a name that is not constant: give the library with --with"
		}
	}
	if reg, ok := dynamicSymbols[name]; ok {
		text, known := l.text(c, reg)
		if !known {
			if !l.conduit {
				r.openEnds[at] = name + " of a name that is not constant"
			}
			return
		}
		r.symbols[text] = append(r.symbols[text], at)
		r.lookUp(text, at)
	}
}

// lookUp lets the functions of a name escape.
func (r *reach) lookUp(name string, at place) {
	r.cause = why{at.fn, at.off, byAddress}
	for _, d := range r.defs[name] {
		r.lookedUpExport(d, at)
	}
}

// text returns the constant string that call c hands over in a register.
func (l *linked) text(c uint32, reg uint8) (string, bool) {
	for i := l.stringsAt(c); i < len(l.Strings) && l.Strings[i].Call == c; i++ {
		if l.Strings[i].Reg == reg {
			return l.Strings[i].Text, true
		}
	}
	return "", false
}

// zero reports whether call c hands over a null pointer in a register.
func (l *linked) zero(c uint32, reg uint8) bool {
	for _, a := range l.args(c) {
		if e := l.Exprs[a.Expr]; a.Reg == reg {
			return e.Op == OpConst && e.N == 0
		}
	}
	return false
}

// lookUpAll lets the exports of an opened object escape whose names match one of
// the patterns, or all.
func (r *reach) lookUpAll(l *linked, at place, patterns []string) {
	r.cause = why{at.fn, at.off, byAddress}
	for i := range l.Exports {
		e := &l.Exports[i]
		if patterns != nil && !slices.ContainsFunc(patterns, func(p string) bool {
			ok, _ := path.Match(p, e.Name)
			return ok
		}) {
			continue
		}
		r.lookedUpExport(binding{l, e}, at)
	}
}

// lookedUpExport lets a symbol that dlsym finds escape. What the C library looks
// up itself, it keeps mangled.
func (r *reach) lookedUpExport(b binding, at place) {
	mangled := at.fn != noFunc && r.owner[at.fn].conduit
	f := b.object.first + b.export.Func
	switch b.export.Kind {
	case ExportFunc:
		r.lookedUp[f] = r.lookedUp[f] || mangled
		r.escape(f)
	case ExportResolver:
		r.resolver(b.object, b.export.Func)
		for _, t := range r.returned(b.object, b.export.Func) {
			r.lookedUp[t] = r.lookedUp[t] || mangled
		}
	case ExportData:
		r.data(b.object, b.export.Value, b.export.Size)
	}
}
