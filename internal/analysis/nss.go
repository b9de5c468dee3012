package analysis

import (
	"slices"
	"strings"
)

// serviceFunctions are the functions that glibc looks up in a name service
// (nss/function.def).
var serviceFunctions = []string{
	"endaliasent", "endetherent", "endgrent", "endhostent", "endnetent", "endnetgrent", "endprotoent", "endpwent",
	"endrpcent", "endservent", "endsgent", "endspent", "getaliasbyname_r", "getaliasent_r", "getcanonname_r",
	"getetherent_r", "getgrent_r", "getgrgid_r", "getgrnam_r", "gethostbyaddr2_r", "gethostbyaddr_r",
	"gethostbyname2_r", "gethostbyname3_r", "gethostbyname4_r", "gethostbyname_r", "gethostent_r", "gethostton_r",
	"getnetbyaddr_r", "getnetbyname_r", "getnetent_r", "getnetgrent_r", "getntohost_r", "getprotobyname_r",
	"getprotobynumber_r", "getprotoent_r", "getpublickey", "getpwent_r", "getpwnam_r", "getpwuid_r",
	"getrpcbyname_r", "getrpcbynumber_r", "getrpcent_r", "getsecretkey", "getservbyname_r", "getservbyport_r",
	"getservent_r", "getsgent_r", "getsgnam_r", "getspent_r", "getspnam_r", "initgroups_dyn", "netname2user",
	"setaliasent", "setetherent", "setgrent", "sethostent", "setnetent", "setnetgrent", "setprotoent", "setpwent",
	"setrpcent", "setservent", "setsgent", "setspent",
}

// servicePrefix starts the names of a name service's functions: _nss_SERVICE_FUNCTION.
const servicePrefix = "_nss_"

// guardServices lets the functions of a name service wait until reached code names
// them: glibc looks all of them up when it opens a service, and enters the one
// whose name the function that wants it hands over (nss/nss_module.c, nss/nsswitch.c).
func (r *reach) guardServices(l *linked) {
	for i := range l.Exports {
		e := &l.Exports[i]
		if e.Kind != ExportFunc || !strings.HasPrefix(e.Name, servicePrefix) {
			continue
		}
		for _, name := range serviceFunctions {
			if !strings.HasSuffix(e.Name, "_"+name) {
				continue
			}
			f := l.first + e.Func
			if r.services[f] == nil {
				r.services[f] = new(guard)
			}
			r.services[f].Named = append(r.services[f].Named, name)
		}
	}
}

// byLookup reports whether libc leads to a function by looking it up. Whoever else
// has a name service's function may enter it at once.
func (r *reach) byLookup(because why) bool {
	return because.kind != byCall && because.from != noFunc && r.isGlibc(r.owner[because.from])
}

// waitsForName reports whether function f, of a name service, waits until its name
// is named; then goes on.
func (r *reach) waitsForName(f fid, then func()) bool {
	g := r.services[f]
	if g == nil || r.met(g) {
		return false
	}
	r.hold(g, heldKey{f: f}, then)
	return true
}

// nameService notes a constant that reached code names: of a function that name
// services have.
func (r *reach) nameService(text string) {
	if _, ok := slices.BinarySearch(serviceFunctions, text); ok {
		r.constants[text] = true
	}
}

// dispatch finds which functions of libc's own name services those that look them
// up enter: those whose names they hand over, or, where they are given the name,
// those whose names their callers hand over.
func (c *charge) dispatch() {
	c.named = map[fid]bool{}
	byName := map[string][]fid{}
	for f, g := range c.reach.services {
		for _, name := range g.Named {
			if c.services[f] {
				byName[name] = append(byName[name], f)
			}
		}
	}
	enter := func(f fid, names []string) {
		for _, name := range names {
			c.tables[f] = append(c.tables[f], byName[name]...)
		}
	}
	callers := map[fid][]fid{}
	for f := range c.edges {
		for _, e := range c.edges[f] {
			if c.dispatchers[e.to] {
				callers[e.to] = append(callers[e.to], fid(f))
			}
		}
	}
	for i, is := range c.dispatchers {
		f := fid(i)
		if !is || !c.isGlibc(c.owner[f]) {
			continue
		}
		if names := c.serviceNames(f); len(names) > 0 {
			c.named[f] = true
			enter(f, names)
			continue
		}
		given := len(callers[f]) > 0 && !c.escaped[f]
		for _, from := range callers[f] {
			given = given && len(c.serviceNames(from)) > 0
		}
		if !given {
			continue
		}
		c.named[f] = true
		for _, from := range callers[f] {
			enter(from, c.serviceNames(from))
		}
	}
}

// serviceNames lists the functions of name services that f names.
func (c *charge) serviceNames(f fid) []string {
	l := c.owner[f]
	var out []string
	for _, n := range l.names(f - l.first) {
		if _, ok := slices.BinarySearch(serviceFunctions, n.Text); ok {
			out = append(out, n.Text)
		}
	}
	return out
}
