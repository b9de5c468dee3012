package policy

import (
	"cmp"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

// ID numbers the compartments of one [Rules]: 0 is [unknown], the others are
// in the order of the file.
type ID uint16

// Unknown is the compartment of code that no other matches, of stacks that
// cannot be walked, and of files that were not foreseen.
const Unknown ID = 0

// Number names a system call: the number as the program passes it, so that
// those of x32 have [syscalls.X32Bit].
type Number struct {
	ABI syscalls.ABI
	NR  int
}

// Class says what decides about a system call.
type Class uint8

// The classes.
const (
	AllowedToNone Class = iota // denied whoever makes it: no stack is walked
	AllowedToAll               // no stack is walked
	Conditional                // the stack decides
)

// Rules is the part of a policy that governs one program image, compiled. It
// does not change and may be used by many threads.
//
// The origin of a call is the compartment of the innermost frame whose object
// is not among the conduits; if all frames of a whole stack are in conduits,
// that of the outermost (the loader and libc have compartments for their own
// start-up); if the stack could not be walked that far, [Unknown]. A call is
// allowed if [Rules.Allows] says so for the origin, or, with [Chain], for every
// compartment on the stack: all frames but those in conduits, or the
// outermost conduit if there is nothing else. A stack that ends early has
// [Unknown] at its end.
type Rules struct {
	Check       Check
	OnViolation OnViolation
	OnExec      OnExec
	Program     *Program

	policy *Policy
	// image is the program's file, alias what the policy calls it.
	image, alias object
	conduits     attribution.Conduits
	compartments []*Compartment // by ID; [unknown] may be nil: it is not in the file
	allowed      map[Number]*grant
}

// grant says who may make a call.
type grant struct {
	all     bool
	unasked bool // it is in the baseline, or always allowed
	ids     []ID // sorted
}

// Rules returns the rules for the program image at path, which is as
// /proc/PID/exe shows it. It returns false if the policy does not list the
// image: then [Policy.OnExec] decides. The first program that matches governs.
func (p *Policy) Rules(path string) (*Rules, bool) {
	for i := range p.Programs {
		if program := &p.Programs[i]; matchOrEqual(program.Path, path) || isLink(program.Path, path) {
			return p.compile(program, path), true
		}
	}
	return nil, false
}

// isLink reports whether link leads to the file at path.
func isLink(link, path string) bool {
	target, err := filepath.EvalSymlinks(link)
	return err == nil && target == path
}

func (p *Policy) compile(program *Program, image string) *Rules {
	r := &Rules{
		Check: p.Check, OnViolation: p.OnViolation, OnExec: p.OnExec, Program: program,
		image: newObject(image), alias: newObject(program.Path), policy: p, compartments: []*Compartment{nil}, allowed: make(map[Number]*grant),
	}
	r.conduits, _ = attribution.NewConduits(p.Conduits...) // checked by Parse
	for i := range program.Compartments {
		c := &program.Compartments[i]
		id := Unknown
		if c.Name == attribution.Unknown {
			r.compartments[Unknown] = c
		} else {
			id = ID(len(r.compartments))
			r.compartments = append(r.compartments, c)
		}
		for _, call := range c.Allow.Calls {
			r.grant(call.Name, func(g *grant) { g.ids = append(g.ids, id) })
		}
	}
	for _, call := range p.Baseline.Calls {
		r.grant(call.Name, func(g *grant) { g.all, g.unasked = true, true })
	}
	for _, abi := range r.ABIs() {
		for _, s := range sets["always"] {
			for _, name := range s.of(abi) {
				nr, _ := syscalls.Number(abi, name)
				g := r.grantOf(Number{abi, nr})
				g.all, g.unasked = true, true
			}
		}
	}
	for _, g := range r.allowed {
		slices.Sort(g.ids)
		g.ids = slices.Compact(g.ids)
		g.all = g.all || len(g.ids) == len(r.compartments)
	}
	return r
}

func (r *Rules) grantOf(n Number) *grant {
	g := r.allowed[n]
	if g == nil {
		g = new(grant)
		r.allowed[n] = g
	}
	return g
}

// grant applies to every call that an entry stands for. An entry of the
// baseline that the program's ABI does not have stands for none.
func (r *Rules) grant(name string, to func(*grant)) {
	numbers, err := expand(name, r.Program.ABI)
	if err != nil {
		return
	}
	for _, n := range numbers {
		to(r.grantOf(n))
	}
}

// ABIs returns the ABIs that the program may use: its own, and those that the
// policy mentions. Every call of another is [AllowedToNone].
func (r *Rules) ABIs() []syscalls.ABI {
	abis := []syscalls.ABI{r.Program.ABI}
	for n := range r.allowed {
		abis = append(abis, n.ABI)
	}
	slices.Sort(abis)
	return slices.Compact(abis)
}

// Len returns the number of compartments: ids are below it.
func (r *Rules) Len() int { return len(r.compartments) }

// Name returns the compartment's name.
func (r *Rules) Name(id ID) string {
	if id == Unknown {
		return attribution.Unknown
	}
	return r.compartments[id].Name
}

// Compartment returns the compartment of an object's code: the first in the
// file with a pattern that matches, or [Unknown]. objectPath is as
// /proc/PID/maps shows it, or a bracketed name of memory without a file
// ([attribution.Anonymous], [attribution.VDSO], [memfd:NAME]). A pattern with a
// slash matches the path, another the file's name; the program's own file has
// the name that the policy gives it too, if that is a link. Code in one of [Rules.Parts]
// belongs to that instead.
func (r *Rules) Compartment(objectPath string) ID {
	o := newObject(objectPath)
	for id, c := range r.compartments {
		if c != nil && !c.part() && r.has(c, o) {
			return ID(id)
		}
	}
	return Unknown
}

func (c *Compartment) part() bool { return len(c.Symbols) > 0 || len(c.Modules) > 0 }

func (r *Rules) has(c *Compartment, o object) bool {
	return slices.ContainsFunc(c.Match, o.matches) || o == r.image && slices.ContainsFunc(c.Match, r.alias.matches)
}

// Part is a compartment that takes some of an object's code.
type Part struct {
	ID ID
	// Symbols are patterns (path.Match) of demangled or raw symbol names.
	// Modules are module paths of Go: see [Part.Module]. One of the two is set.
	Symbols, Modules []string
}

// Parts returns the parts into which an object is split, in the order in which
// they are asked: the first that matches has the code. Empty for most objects.
func (r *Rules) Parts(objectPath string) []Part {
	o := newObject(objectPath)
	var parts []Part
	for id, c := range r.compartments {
		if c != nil && c.part() && r.has(c, o) {
			parts = append(parts, Part{ID(id), c.Symbols, c.Modules})
		}
	}
	return parts
}

// Symbol reports whether the part has the function of that name.
func (p Part) Symbol(name string) bool {
	return slices.ContainsFunc(p.Symbols, func(s string) bool { return matchOrEqual(s, name) })
}

// Module reports whether the part has the Go module of that path.
func (p Part) Module(path string) bool {
	return slices.ContainsFunc(p.Modules, func(s string) bool { return moduleMatches(s, path) })
}

// Conduits returns which objects are not charged: the default ones and those
// that the policy adds.
func (r *Rules) Conduits() attribution.Conduits { return r.conduits }

// Class returns the class of a system call.
func (r *Rules) Class(abi syscalls.ABI, nr int) Class {
	switch g := r.allowed[Number{abi, nr}]; {
	case g == nil:
		return AllowedToNone
	case g.all:
		return AllowedToAll
	default:
		return Conditional
	}
}

// Allows reports whether a compartment may make a system call.
func (r *Rules) Allows(id ID, abi syscalls.ABI, nr int) bool {
	g := r.allowed[Number{abi, nr}]
	if g == nil {
		return false
	}
	if g.all {
		return true
	}
	_, ok := slices.BinarySearch(g.ids, id)
	return ok
}

// Numbers returns the system calls of a class, sorted by ABI and number. For
// [AllowedToNone] it returns nil: that class has all that are in no other.
func (r *Rules) Numbers(class Class) []Number {
	var out []Number
	for n := range r.allowed {
		if class != AllowedToNone && r.Class(n.ABI, n.NR) == class {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b Number) int { return cmp.Or(cmp.Compare(a.ABI, b.ABI), cmp.Compare(a.NR, b.NR)) })
	return out
}

// young has the numbers of statx(2), which came with Linux 4.11: from there on
// all numbers of an ABI are as young.
var young = map[syscalls.ABI]int{
	syscalls.AMD64: 332, syscalls.X32: syscalls.X32Bit | 332, syscalls.I386: 383, syscalls.ARM64: 291,
}

// x32Own is where x32's own numbers begin, which are as old as the ABI.
const x32Own = syscalls.X32Bit | 512

// Errno returns what a denied call fails with: EPERM, but ENOSYS for calls that
// came with Linux 4.11 or later and for numbers without a name. The callers of
// young calls (statx, rseq, clone3, openat2, io_uring_setup) have another way on
// kernels that lack them, and take it on ENOSYS only.
func (r *Rules) Errno(abi syscalls.ABI, nr int) unix.Errno {
	if nr >= young[abi] && !(abi == syscalls.X32 && nr >= x32Own) {
		return unix.ENOSYS
	}
	return unix.EPERM
}
