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
