package policy

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

// Options say how a policy is derived.
type Options struct {
	// Evidence are the kinds that count; empty for all.
	Evidence []attribution.Evidence
	// Groups put several compartments of the documents into one.
	Groups []Group
	// Baseline allows harmless, frequent calls to every compartment.
	Baseline bool
	// Incomplete accepts documents that lost something.
	Incomplete bool
	// Check is the policy's; Chain allows a call to all compartments that were
	// on the stack. Empty for Origin.
	Check Check
}

// Group is a compartment of all objects, or Go modules, that match a pattern.
type Group struct {
	Name     string
	Patterns []string
}

// AddGroup adds what NAME=PATTERN says.
func AddGroup(groups []Group, text string) ([]Group, error) {
	name, pattern, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return nil, fmt.Errorf("group %q: want NAME=PATTERN, tls=libssl.so.* for example", text)
	}
	if err := checkPattern(pattern); err != nil {
		return nil, fmt.Errorf("group %s: %w", name, err)
	}
	for i := range groups {
		if groups[i].Name == name {
			groups[i].Patterns = append(groups[i].Patterns, pattern)
			return groups, nil
		}
	}
	return append(groups, Group{name, []string{pattern}}), nil
}

// Derive makes the policy that allows what the document has evidence of, and
// what sets.txt adds so that another run of the same programs is allowed too.
// The result does not depend on the order in which documents were merged.
// Programs of one path are one program. A document that is not complete is an
// error, an [*IncompleteError], unless the options accept it.
func Derive(doc *attribution.Document, o Options) (*Policy, error) {
	lost := incomplete(doc)
	if lost != nil && !o.Incomplete {
		return nil, lost
	}
	p, evidence, err := derive(doc, &o)
	if err != nil {
		return nil, err
	}
	if !evidence {
		return nil, fmt.Errorf("there is no %s evidence, so nothing to allow", kindsOf(&o))
	}
	p.Head = head(doc, &o, lost)
	if _, err := p.Text(); err != nil {
		return nil, fmt.Errorf("derive policy: %w", err)
	}
	return p, nil
}

// derive also reports whether there was evidence.
func derive(doc *attribution.Document, o *Options) (p *Policy, evidence bool, err error) {
	p = &Policy{Check: cmp.Or(o.Check, Origin), OnViolation: Deny, OnExec: DenyExec}
	drafts := make(map[string]*draft)
	for i := range doc.Programs {
		program := &doc.Programs[i]
		d, err := draftOf(drafts, program, o)
		if err != nil {
			return nil, false, err
		}
		d.add(program)
	}
	conduits := make(map[string]struct{})
	for _, path := range slices.Sorted(maps.Keys(drafts)) {
		p.Programs = append(p.Programs, Program{Path: path, ABI: drafts[path].abi})
		maps.Copy(conduits, drafts[path].conduits)
	}
	if len(conduits) > 0 {
		p.Conduits = slices.Sorted(maps.Keys(conduits))
	}
	if o.Baseline {
		p.Baseline = defaultBaseline(p.Programs)
	}
	for i := range p.Programs {
		d := drafts[p.Programs[i].Path]
		evidence = evidence || d.hasEvidence()
		d.foresee()
		p.Programs[i].Compartments = d.compartments(p.Baseline)
	}
	return p, evidence, nil
}

// defaultBaseline lists the calls that one of the programs' ABIs has.
func defaultBaseline(programs []Program) List {
	var abis []syscalls.ABI
	for _, p := range programs {
		abis = append(abis, p.ABI)
	}
	var l List
	for _, s := range sets["baseline"] {
		heading := s.reason
		for _, call := range s.of(abis...) {
			l.Calls = append(l.Calls, Call{Name: call, Heading: heading})
			heading = ""
		}
	}
	return l
}

// draft is a program of a policy in the making.
type draft struct {
	abi      syscalls.ABI
	path     string
	options  *Options
	rooms    map[string]*room
	conduits map[string]struct{} // patterns beyond the default ones
}

// room is a compartment in the making.
type room struct {
	name           string
	match, modules map[string]struct{}
	group          int  // index in the options, or -1
	conduit        bool // the loader or the C library
	calls          map[string]*reasons
}

// reasons say why a call is allowed.
type reasons struct {
	static, traced bool
	via            map[string]struct{} // conduit functions
	through        map[string]struct{} // the origins that the room called
	set            string              // the reason of a set, if there is no evidence
}

func draftOf(drafts map[string]*draft, p *attribution.Program, o *Options) (*draft, error) {
	abi, err := syscalls.ParseABI(string(p.Arch))
	if err != nil {
		return nil, err
	}
	d := drafts[p.Path]
	if d == nil {
		d = &draft{abi: abi, path: p.Path, options: o, rooms: make(map[string]*room), conduits: make(map[string]struct{})}
		drafts[p.Path] = d
	}
	if d.abi != abi {
		return nil, fmt.Errorf("%s is a program of %s in one document and of %s in another: a policy has one for each path",
			p.Path, d.abi, abi)
	}
	return d, nil
}

// add adds the evidence of one image.
func (d *draft) add(p *attribution.Program) {
	rooms := d.open(p)
	counts := make(map[string]map[string]bool) // compartment and label of a call whose evidence counts
	for i := range p.Compartments {
		c := &p.Compartments[i]
		counts[c.Name] = make(map[string]bool)
		for j := range c.Syscalls {
			s := &c.Syscalls[j]
			why := d.reasons(s)
			if why == nil {
				continue
			}
			counts[c.Name][s.Label(p.Arch)] = true
			for _, r := range rooms.of(c.Name, s) {
				r.because(d.label(s), why)
			}
		}
	}
	if d.options.Check == Chain {
		d.addChains(p, counts, rooms)
	}
}

// plan has the rooms for the compartments of one image in a document.
type plan struct {
	draft   *draft
	named   map[string][]*room // by the document's compartment
	objects map[string]*room   // by the object's name; nil for [unknown]
	program *attribution.Program
}

func (d *draft) open(p *attribution.Program) *plan {
	l := &plan{d, make(map[string][]*room), make(map[string]*room), p}
	for i := range p.Objects {
		o := &p.Objects[i]
		if o.Conduit && !(attribution.Conduits{}).Match(o.Path) {
			d.conduits[escape(attribution.ObjectName(o.Path))] = struct{}{}
		}
		for _, part := range o.Parts {
			l.add(part.Name, d.roomOfPart(o, part.Name))
			if part.Conduit && part.Name != attribution.GoStd && part.Name != attribution.GoRuntime {
				d.conduits[escape(part.Name)] = struct{}{}
			}
		}
		l.objects[o.Name] = d.roomOf(o)
		l.add(o.Compartment, l.objects[o.Name])
	}
	return l
}

func (l *plan) add(name string, r *room) {
	if r != nil && !slices.Contains(l.named[name], r) {
		l.named[name] = append(l.named[name], r)
	}
}

// of returns the rooms of a compartment that makes a call. Where there are
// several, because the document's policy groups objects otherwise, the example
// tells which of them it is.
func (l *plan) of(name string, s *attribution.Syscall) []*room {
	rooms := l.named[name]
	switch {
	case name == attribution.Unknown:
		return []*room{l.draft.room(name)}
	case len(rooms) == 0:
		l.named[name] = []*room{l.draft.roomWithoutObject(name)}
	case len(rooms) > 1:
		for _, f := range s.Example {
			if r := l.objects[f.Object]; slices.Contains(rooms, r) {
				return []*room{r}
			}
		}
	}
	return l.named[name]
}

// hasEvidence reports whether a call is allowed.
func (d *draft) hasEvidence() bool {
	for _, r := range d.rooms {
		if len(r.calls) > 0 {
			return true
		}
	}
	return false
}

func kindsOf(o *Options) string {
	if len(o.Evidence) == 0 {
		return "static or traced"
	}
	return string(o.Evidence[0])
}

// reasons returns the evidence of a call that counts, or nil.
func (d *draft) reasons(s *attribution.Syscall) *reasons {
	r := &reasons{via: make(map[string]struct{})}
	for _, e := range s.Evidence {
		if len(d.options.Evidence) == 0 || slices.Contains(d.options.Evidence, e) {
			r.static = r.static || e == attribution.Static
			r.traced = r.traced || e == attribution.Traced
		}
	}
	if !r.static && !r.traced {
		return nil
	}
	for _, v := range s.Via {
		r.via[v] = struct{}{}
	}
	return r
}

// label names a call by its number: the document may know more names.
func (d *draft) label(s *attribution.Syscall) string {
	abi, err := syscalls.ParseABI(string(s.ABI))
	if err != nil {
		abi = d.abi
	}
	return label(d.abi, Number{abi, s.NR})
}

// addChains allows calls to the compartments that called their origins.
func (d *draft) addChains(p *attribution.Program, counts map[string]map[string]bool, rooms *plan) {
	for _, ch := range p.Chains {
		origin := p.Compartment(ch.Compartments[0])
		if origin == nil {
			continue
		}
		for i := range origin.Syscalls {
			s := &origin.Syscalls[i]
			if l := s.Label(p.Arch); !counts[origin.Name][l] || !slices.Contains(ch.Syscalls, l) {
				continue
			}
			why := &reasons{through: map[string]struct{}{rooms.of(origin.Name, s)[0].name: {}}}
			for _, name := range ch.Compartments[1:] {
				for _, r := range rooms.of(name, s) {
					r.because(d.label(s), why)
				}
			}
		}
	}
}

func (r *room) because(label string, why *reasons) {
	have := r.calls[label]
	if have == nil {
		have = &reasons{via: make(map[string]struct{}), through: make(map[string]struct{})}
		r.calls[label] = have
	}
	have.static = have.static || why.static
	have.traced = have.traced || why.traced
	maps.Copy(have.via, why.via)
	maps.Copy(have.through, why.through)
	if have.set == "" {
		have.set = why.set
	}
}

func (d *draft) room(name string) *room {
	r := d.rooms[name]
	if r == nil {
		r = &room{name: name, match: make(map[string]struct{}), modules: make(map[string]struct{}), group: -1,
			calls: make(map[string]*reasons)}
		d.rooms[name] = r
	}
	return r
}

// inGroup returns the room of the first group that takes something.
func (d *draft) inGroup(takes func(pattern string) bool) *room {
	for i, g := range d.options.Groups {
		if slices.ContainsFunc(g.Patterns, takes) {
			r := d.room(g.Name)
			r.group = i
			return r
		}
	}
	return nil
}

// versioned is the file name of a library with more than the number of its ABI.
var versioned = regexp.MustCompile(`^(.+\.so\.[0-9]+)\.[0-9.]+$`)

// roomName names the compartment of an object, and the pattern for it. A library
// file with a full version stands for all of its ABI, so that an update of it is
// the same compartment.
func roomName(o object) (name, pattern string) {
	if !o.file {
		return o.name, o.name
	}
	if m := versioned.FindStringSubmatch(o.name); m != nil {
		return m[1], escape(m[1]) + ".*"
	}
	return o.name, escape(o.name)
}

// roomOf returns the room of an object's code, or nil for [unknown].
func (d *draft) roomOf(o *attribution.Object) *room {
	object := newObject(o.Path)
	if r := d.inGroup(object.matches); r != nil {
		for _, p := range d.options.Groups[r.group].Patterns {
			r.match[p] = struct{}{}
		}
		return r
	}
	if object.name == attribution.Unknown && !object.file {
		return nil
	}
	name, pattern := roomName(object)
	if o.Compartment != o.Name && !strings.HasPrefix(o.Compartment, "[") {
		name = o.Compartment // a policy put it there
	}
	r := d.room(name)
	r.match[pattern] = struct{}{}
	r.conduit = r.conduit || o.Conduit && object.file
	return r
}

// roomOfPart returns the room of a module in an object.
func (d *draft) roomOfPart(o *attribution.Object, module string) *room {
	r := d.inGroup(func(pattern string) bool { return moduleMatches(pattern, module) })
	if r == nil {
		r = d.room(module)
		r.modules[escape(module)] = struct{}{}
	} else {
		for _, p := range d.options.Groups[r.group].Patterns {
			r.modules[p] = struct{}{}
		}
	}
	if o == nil || o.Path == d.path {
		r.match[d.path] = struct{}{}
	} else {
		r.match[escape(attribution.ObjectName(o.Path))] = struct{}{}
	}
	return r
}

// roomWithoutObject is for compartments that the document's objects do not
// name: memory without a file, or modules of the program.
func (d *draft) roomWithoutObject(name string) *room {
	if !strings.HasPrefix(name, "[") {
		return d.roomOfPart(nil, name)
	}
	r := d.room(name)
	if name != attribution.Unknown {
		r.match[name] = struct{}{}
	}
	return r
}

// escape makes a pattern that matches a name only.
func escape(name string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(name)
}

// allocators are the functions of the C library that manage the heap.
var allocators = []string{
	"malloc", "calloc", "realloc", "reallocarray", "free", "memalign", "posix_memalign", "aligned_alloc", "valloc", "strdup",
}

// foresee adds what other runs of the program do: see sets.txt.
func (d *draft) foresee() {
	threads := false
	for _, r := range d.rooms {
		for call, why := range r.calls {
			_, is := setReason("threads", call)
			threads = threads || is && why.traced && slices.ContainsFunc(allocators, func(a string) bool {
				_, has := why.via[a]
				return has
			})
		}
	}
	golang := false
	for _, r := range d.rooms {
		golang = golang || len(r.modules) > 0
	}
	own := attribution.ObjectName(d.path)
	for _, r := range d.rooms {
		if len(r.modules) > 0 || golang && r.name == own {
			d.addSets(r, "go")
		}
		if len(r.modules) > 0 && r.traced("waitid", "wait4") {
			d.addSets(r, "go-wait")
		}
		if !r.ofFile() {
			continue
		}
		if !d.options.Baseline {
			d.addSets(r, "heap")
		}
		if threads && !r.conduit {
			d.addSets(r, "threads")
		}
		if r.started() {
			d.addSets(r, "start")
		}
	}
}

func (d *draft) addSets(r *room, kind string) {
	for _, s := range sets[kind] {
		for _, call := range s.of(d.abi) {
			r.because(call, &reasons{set: s.reason})
		}
	}
}

// ofFile reports whether the room has code of a C library's callers.
func (r *room) ofFile() bool {
	return len(r.modules) == 0 && slices.ContainsFunc(slices.Collect(maps.Keys(r.match)), func(pattern string) bool {
		return !strings.HasPrefix(pattern, "[")
	})
}

// traced reports whether a trace saw the room make one of these calls.
func (r *room) traced(calls ...string) bool {
	return slices.ContainsFunc(calls, func(call string) bool { return r.calls[call] != nil && r.calls[call].traced })
}

// started reports whether a trace saw the room start the program.
func (r *room) started() bool {
	return r.conduit && r.traced("set_tid_address")
}

// compartments returns the rooms in the order of the file: groups as given,
// because the first that matches takes an object; the program itself; libraries
// by name; parts of the program; memory without a file; the rest.
func (d *draft) compartments(baseline List) []Compartment {
	d.room(attribution.Unknown)
	rooms := slices.Collect(maps.Values(d.rooms))
	own := attribution.ObjectName(d.path)
	rank := func(r *room) int {
		switch {
		case r.group >= 0:
			return r.group - len(d.options.Groups)
		case r.name == own:
			return 0
		case r.name == attribution.Unknown:
			return 4
		case r.name[0] == '[' && !r.ofFile():
			return 3
		case len(r.modules) > 0:
			return 2
		}
		return 1
	}
	slices.SortFunc(rooms, func(a, b *room) int {
		if n := rank(a) - rank(b); n != 0 {
			return n
		}
		return strings.Compare(a.name, b.name)
	})
	var out []Compartment
	for _, r := range rooms {
		c := d.compartment(r, baseline)
		if len(c.Allow.Calls) > 0 || r.name == attribution.Unknown || r.name == own {
			out = append(out, c)
		}
	}
	return out
}

func (d *draft) compartment(r *room, baseline List) Compartment {
	c := Compartment{Name: r.name, Allow: List{Calls: []Call{}}}
	switch {
	case r.name == attribution.Unknown:
		c.Note = "code that no compartment above has"
	default:
		c.Match = slices.Sorted(maps.Keys(r.match))
		if len(r.modules) > 0 {
			c.Modules = slices.Sorted(maps.Keys(r.modules))
		}
	}
	if r.started() {
		c.Note = "its own calls only, at the program's start: others are charged to its callers"
	} else if r.conduit {
		c.Note = "its own calls only: others are charged to its callers"
	}
	free := func(label string) bool {
		_, always := setReason("always", label)
		return always || slices.ContainsFunc(baseline.Calls, func(b Call) bool { return b.Name == label })
	}
	for label, why := range r.calls {
		if !free(label) {
			c.Allow.Calls = append(c.Allow.Calls, Call{Name: label, Note: why.note(label)})
		}
	}
	sortByDanger(&c.Allow)
	return c
}

// dangers head the calls of a derived list, by class.
var dangers = map[int]string{
	syscalls.Critical:   "critical: can take over the system",
	syscalls.Disruptive: "disruptive: can deny service, or change what the process does",
	syscalls.Harmless:   "harmless by themselves",
	0:                   "unknown to this version",
}

// danger is the class of the call that a label names.
func danger(label string) int { return syscalls.Danger(label[strings.IndexByte(label, ':')+1:]) }

func sortByDanger(l *List) {
	rank := func(c Call) int { // unknown ones first
		if d := danger(c.Name); d > 0 {
			return -d
		}
		return -4
	}
	slices.SortFunc(l.Calls, func(a, b Call) int {
		if n := rank(a) - rank(b); n != 0 {
			return n
		}
		return strings.Compare(a.Name, b.Name)
	})
	for i := range l.Calls {
		if i == 0 || rank(l.Calls[i]) != rank(l.Calls[i-1]) {
			l.Calls[i].Heading = dangers[danger(l.Calls[i].Name)]
		}
	}
}

// note tells the reasons in the file: no counts, which differ from run to run.
func (r *reasons) note(call string) string {
	var out []string
	switch {
	case r.static && r.traced:
		out = append(out, "traced and static")
	case r.traced:
		out = append(out, "traced")
	case r.static:
		out = append(out, "static")
	}
	if via := telling(call, r.via); via != "" {
		out = append(out, "via "+via)
	}
	if len(r.through) > 0 {
		out = append(out, "through "+some(slices.Sorted(maps.Keys(r.through))))
	}
	if len(out) == 0 {
		return r.set
	}
	return strings.Join(out, " ")
}

// telling picks the functions that are not the call's own wrapper.
func telling(call string, via map[string]struct{}) string {
	var out []string
	for _, v := range slices.Sorted(maps.Keys(via)) {
		plain := strings.TrimPrefix(strings.TrimLeft(v, "_"), "libc_")
		if plain != call && plain != call+"64" && plain != "cxa_finalize" && !strings.ContainsFunc(v, unprintable) {
			out = append(out, v)
		}
	}
	return some(out)
}

func unprintable(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufffd' }

// some names the first of many.
func some(names []string) string {
	const most = 3
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most-1], ", "), len(names)-most+1)
	}
	return strings.Join(names, ", ")
}

// head is the comment at the start of a derived file.
func head(d *attribution.Document, o *Options, lost *IncompleteError) string {
	kinds := make(map[string]struct{})
	for _, p := range d.Programs {
		for _, c := range p.Compartments {
			for _, s := range c.Syscalls {
				for _, e := range s.Evidence {
					if len(o.Evidence) == 0 || slices.Contains(o.Evidence, e) {
						kinds[string(e)] = struct{}{}
					}
				}
			}
		}
	}
	lines := []string{
		"What each library may do, derived from " + strings.Join(slices.Sorted(maps.Keys(kinds)), " and ") + " evidence.",
		"docs/policy.md explains the keys; bulkhead policy check compares with new documents.",
	}
	if lost != nil {
		lines = append(lines, "", "INCOMPLETE: evidence was lost, so that calls may be missing here.")
		lines = append(lines, lost.Losses...)
	}
	return strings.Join(lines, "\n")
}
