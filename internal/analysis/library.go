package analysis

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"
	"strings"

	"bulkhead/internal/attribution"
	"bulkhead/internal/objfile"
	"bulkhead/internal/syscalls"
)

// IsLibrary reports whether the file at path is a shared library: an ELF file of
// type ET_DYN that is not marked as a position-independent program, and has no
// dynamic loader of its own. A C library has one, to print its version; it also has
// a name for others to ask for.
func IsLibrary(path string) (bool, error) {
	f, err := objfile.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	dyn, err := f.Dynamic()
	if err != nil || dyn == nil || f.Type != elf.ET_DYN {
		return false, err
	}
	return dyn.Flags1&elf.DF_1_PIE == 0 && (f.Interp == "" || dyn.Soname != ""), nil
}

// A Change is a system call that one side of a comparison has and the other does
// not.
type Change struct {
	// Gained says that the second side has it.
	Gained bool `json:"gained"`
	// Compartment is charged with the call. For a change of an exported function,
	// which may cause it in any compartment, it is the library.
	Compartment string `json:"compartment"`
	// Function is the exported function that can cause the call, [Loading], [Unloading], or empty.
	Function string `json:"function"`
	// Syscall is the call's name.
	Syscall string `json:"syscall"`
	// Danger is its class, 1 to 3.
	Danger int `json:"danger"`
	// Path leads from the compartment or function to the system call instruction,
	// innermost first.
	Path []attribution.Frame `json:"path"`
}

// ChangeRow is one row of a comparison's CSV and Parquet forms (docs/dataframe.md).
type ChangeRow struct {
	Change      string `parquet:"change"` // gained or lost
	Compartment string `parquet:"compartment"`
	Function    string `parquet:"function"`
	Syscall     string `parquet:"syscall"`
	Danger      int32  `parquet:"danger"`
}

// ChangeRows returns the changes as rows, without their paths.
func ChangeRows(changes []Change) []ChangeRow {
	rows := make([]ChangeRow, len(changes))
	for i, c := range changes {
		rows[i] = ChangeRow{"lost", c.Compartment, c.Function, c.Syscall, int32(c.Danger)}
		if c.Gained {
			rows[i].Change = "gained"
		}
	}
	return rows
}

// Gains reports whether a change is a gain.
func Gains(changes []Change) bool {
	return slices.ContainsFunc(changes, func(c Change) bool { return c.Gained })
}

// sortChanges orders by danger, gains first, then by name.
func sortChanges(list []Change) {
	slices.SortFunc(list, func(a, b Change) int {
		gain := func(c Change) int {
			if c.Gained {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.Danger, a.Danger), cmp.Compare(gain(a), gain(b)), cmp.Compare(a.Compartment, b.Compartment),
			cmp.Compare(a.Function, b.Function), cmp.Compare(a.Syscall, b.Syscall))
	})
}

// stem is a library's name without its version, so that two versions of one can
// be compared: libz.so.1.2.13 is libz.so.
func stem(name string) string {
	i := strings.Index(name, ".so.")
	if i < 0 {
		return name
	}
	return name[:i+3]
}

// charged collects a document's calls by compartment.
func charged(d *attribution.Document) map[string]map[string]*attribution.Syscall {
	out := map[string]map[string]*attribution.Syscall{}
	for i := range d.Programs {
		p := &d.Programs[i]
		for j := range p.Compartments {
			c := &p.Compartments[j]
			name := stem(c.Name)
			if c.Name == attribution.ObjectName(p.Path) {
				name = "[program]" // two builds of one program may have two names
			}
			if out[name] == nil {
				out[name] = map[string]*attribution.Syscall{}
			}
			for k := range c.Syscalls {
				s := &c.Syscalls[k]
				out[name][s.Label(p.Arch)] = s
			}
		}
	}
	return out
}

// DiffDocuments lists what the compartments of b gained and lost against a.
func DiffDocuments(a, b *attribution.Document) []Change {
	before, after := charged(a), charged(b)
	out := []Change{}
	one := func(from, to map[string]map[string]*attribution.Syscall, gained bool) {
		for name, calls := range to {
			for label, s := range calls {
				if from[name][label] == nil {
					out = append(out, Change{
						Gained: gained, Compartment: name, Syscall: label, Danger: syscalls.Danger(s.Name), Path: s.Example,
					})
				}
			}
		}
	}
	one(before, after, true)
	one(after, before, false)
	sortChanges(out)
	return out
}

// DiffLibraries lists what the exported functions of library b can cause that
// those of a cannot, and the other way round.
func DiffLibraries(a, b *Result) []Change {
	before, after := a.exported(), b.exported()
	out := []Change{}
	one := func(from, to map[string]map[string]exportedCall, r *Result, gained bool) {
		for name, calls := range to {
			for label, c := range calls {
				if _, ok := from[name][label]; ok {
					continue
				}
				out = append(out, Change{
					Gained: gained, Compartment: r.charge.objects[0].object.Name, Function: name,
					Syscall: label, Danger: syscalls.Danger(label), Path: r.frames(r.charge.path(c.f, c.call)),
				})
			}
		}
	}
	one(before, after, b, true)
	one(after, before, a, false)
	out = dropRepeated(out)
	sortChanges(out)
	return out
}

// dropRepeated leaves out what unloading can cause where something else can cause it too: the destructor of every library
// calls what others have registered, which may be any function.
func dropRepeated(list []Change) []Change {
	type key struct {
		syscall string
		gained  bool
	}
	elsewhere := map[key]bool{}
	for _, c := range list {
		if c.Function != Unloading {
			elsewhere[key{c.Syscall, c.Gained}] = true
		}
	}
	return slices.DeleteFunc(list, func(c Change) bool {
		return c.Function == Unloading && elsewhere[key{c.Syscall, c.Gained}]
	})
}

// exportedCall is a call that an exported function can cause.
type exportedCall struct {
	f    fid
	call int
}

// Names in the place of an exported function's for what runs without a call.
const (
	Loading   = "[load]"   // constructors, and the resolvers of IFUNCs
	Unloading = "[unload]" // destructors
)

// exported maps what a program can make of the first object run, its exported functions and what runs unasked, to what can
// happen below.
func (r *Result) exported() map[string]map[string]exportedCall {
	out := map[string]map[string]exportedCall{}
	for name, functions := range r.entries() {
		calls := map[string]exportedCall{}
		for _, f := range functions {
			r.charge.below[f].each(func(i int) {
				if _, ok := calls[r.callName(i)]; !ok {
					calls[r.callName(i)] = exportedCall{f, i}
				}
			})
		}
		out[name] = calls
	}
	return out
}

// entries are the functions of the first object that others start, by name.
func (r *Result) entries() map[string][]fid {
	l := r.charge.objects[0]
	out := map[string][]fid{Loading: nil, Unloading: nil}
	for _, f := range l.Init {
		out[Loading] = append(out[Loading], l.first+f)
	}
	for _, f := range l.Fini {
		out[Unloading] = append(out[Unloading], l.first+f)
	}
	for i := range l.Slots {
		if sl := &l.Slots[i]; sl.Kind == SlotResolver && sl.Target != none {
			out[Loading] = append(out[Loading], l.first+sl.Target)
		}
	}
	for i := range l.Exports {
		switch e := &l.Exports[i]; e.Kind {
		case ExportFunc:
			out[e.Name] = append(out[e.Name], l.first+e.Func)
		case ExportResolver:
			out[Loading] = append(out[Loading], l.first+e.Func)
			out[e.Name] = append(out[e.Name], r.charge.returned(l, e.Func)...)
		}
	}
	return out
}

func (r *Result) callName(i int) string {
	no := r.charge.calls[i]
	name, ok := syscalls.Name(no.abi, no.nr)
	if !ok {
		name = fmt.Sprintf("syscall_%d", no.nr)
	}
	return name
}

// frames names the steps of a path, innermost first.
func (r *Result) frames(steps []step) []attribution.Frame {
	out := make([]attribution.Frame, 0, len(steps))
	for _, s := range slices.Backward(steps) {
		l := r.charge.owner[s.fn]
		name, off := r.names.at(l, l.Funcs[s.fn-l.first].Start+uint64(s.off))
		out = append(out, attribution.Frame{Object: l.object.Name, Function: name, Offset: off})
	}
	return out
}

// path returns a shortest path from function f down to an instruction that makes
// call i, over all calls, outermost first; nil if there is none.
func (c *charge) path(f fid, i int) []step {
	type arrival struct {
		from fid
		off  uint32
	}
	came := map[fid]arrival{f: {noFunc, 0}}
	queue := []fid{f}
	opened := false
	add := func(to, from fid, off uint32) {
		if _, ok := came[to]; !ok && c.reached[to] {
			came[to] = arrival{from, off}
			queue = append(queue, to)
		}
	}
	p := paths{charge: c}
	for len(queue) > 0 {
		g := queue[0]
		queue = queue[1:]
		if c.own[g].has(i) {
			steps := []step{{g, p.siteOf(g, i)}}
			for a := came[g]; a.from != noFunc; a = came[a.from] {
				steps = append(steps, step{a.from, a.off})
			}
			slices.Reverse(steps)
			return steps
		}
		for _, e := range c.edges[g] {
			add(e.to, g, e.off)
		}
		if (c.open[g] || c.guardedCalls[g]) && !opened {
			opened = true
			for t := range c.escaped {
				if c.escaped[t] {
					add(fid(t), g, p.openSite(g))
				}
			}
		}
	}
	return nil
}
