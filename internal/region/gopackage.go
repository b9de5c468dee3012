package region

import (
	"cmp"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"

	"bulkhead/internal/attribution"
)

// GoBy says what a Go program is divided by.
type GoBy string

// The ways to divide a Go program.
const (
	GoByModule  GoBy = "module"
	GoByPackage GoBy = "package"
)

// goNamer finds the part that a Go function belongs to.
type goNamer struct {
	by      GoBy
	info    *debug.BuildInfo
	modules []goModule // by path, descending: a nested module comes before the one around it
	main    goModule   // of package main
	known   map[string]Part
}

type goModule struct{ path, version string }

func newGoNamer(info *debug.BuildInfo, by GoBy) *goNamer {
	n := &goNamer{by: by, info: info, main: goModule{path: "main"}, known: map[string]Part{}}
	add := func(m *debug.Module) {
		version := m.Version
		if m.Replace != nil {
			version = m.Replace.Version
		}
		n.modules = append(n.modules, goModule{m.Path, version})
	}
	if info.Main.Path != "" {
		add(&info.Main)
		n.main = n.modules[0]
	}
	for _, m := range info.Deps {
		add(m)
	}
	slices.SortFunc(n.modules, func(a, b goModule) int { return cmp.Compare(b.path, a.path) })
	return n
}

// part returns the part of a function by its name in the function table.
func (n *goNamer) part(function string) Part {
	pkg := GoPackage(function)
	p, ok := n.known[pkg]
	if !ok {
		p = n.ofPackage(pkg)
		n.known[pkg] = p
	}
	return p
}

func (n *goNamer) ofPackage(pkg string) Part {
	module, ok := n.module(pkg)
	switch {
	case ok && n.by == GoByPackage && pkg == "main" && n.info.Path != "" && n.info.Path != "command-line-arguments":
		return Part{Name: n.info.Path, Version: module.version}
	case ok && n.by == GoByPackage:
		return Part{Name: pkg, Version: module.version}
	case ok:
		return Part{Name: module.path, Version: module.version}
	}
	name := attribution.GoStd
	if IsRuntime(pkg) {
		name = attribution.GoRuntime
	}
	if n.by == GoByPackage && pkg != "" {
		name = pkg
	}
	return Part{Name: name, Version: n.info.GoVersion, Conduit: true}
}

// module returns the module of a package; false for the standard library's.
func (n *goNamer) module(pkg string) (goModule, bool) {
	if pkg == "main" {
		return n.main, true
	}
	for _, m := range n.modules {
		if inside(pkg, m.path) {
			return m, true
		}
	}
	if first, _, _ := strings.Cut(pkg, "/"); strings.Contains(first, ".") {
		return goModule{path: guessModule(pkg)}, true
	}
	return goModule{}, false
}

func inside(pkg, module string) bool {
	rest, ok := strings.CutPrefix(pkg, module)
	return ok && (rest == "" || rest[0] == '/')
}

// guessModule is for programs without build information: most hosts have modules at
// a fixed depth (github.com/owner/name, with a major version behind it or not).
func guessModule(pkg string) string {
	elements := strings.Split(pkg, "/")
	depth := 3
	if elements[0] == "gopkg.in" || elements[0] == "go.uber.org" || elements[0] == "google.golang.org" ||
		elements[0] == "k8s.io" || elements[0] == "sigs.k8s.io" {
		depth = 2
	}
	if len(elements) > depth && len(elements[depth]) > 1 && elements[depth][0] == 'v' &&
		strings.Trim(elements[depth][1:], "0123456789") == "" {
		depth++
	}
	return strings.Join(elements[:min(depth, len(elements))], "/")
}

// IsRuntime reports whether a package is part of Go's runtime proper, which works for
// itself: it starts the program, schedules goroutines and collects garbage. Functions
// without a package are written in assembly and are the runtime's as well.
func IsRuntime(pkg string) bool {
	return pkg == "" || pkg == "runtime" || pkg == "runtime/cgo" ||
		strings.HasPrefix(pkg, "runtime/internal/") || strings.HasPrefix(pkg, "internal/runtime/")
}

// GoPackage returns the import path in a function's name as the linker writes it:
// path.Function, path.(*Type).Method, path.Function[arguments]; the last element of
// the path has its dots escaped. It is empty where the name has none, as those of the
// compiler's own functions (type:.eq.[2]string).
func GoPackage(function string) string {
	name := function
	for _, prefix := range []string{"type:.eq.", "type:.hash.", "type..eq.", "type..hash."} {
		name = strings.TrimPrefix(name, prefix)
	}
	if i := strings.IndexAny(name, "[({ *"); i >= 0 {
		name = name[:i]
	}
	slash := strings.LastIndexByte(name, '/') + 1
	dot := strings.IndexByte(name[slash:], '.')
	if dot < 0 || strings.HasPrefix(name, "go:") || strings.HasPrefix(name, "go.(") {
		return ""
	}
	pkg := name[:slash+dot]
	if pkg == "go" || pkg == "type" || pkg == "type:" {
		return ""
	}
	if unescaped, err := url.PathUnescape(pkg); err == nil {
		return unescaped
	}
	return pkg
}
