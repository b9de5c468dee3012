package attribution

import (
	"cmp"
	"slices"
	"strconv"
)

// Builder collects observations and makes a document of them. It is not safe
// for concurrent use.
type Builder struct {
	programs []*ProgramBuilder
	index    map[programKey]*ProgramBuilder
}

type programKey struct {
	path, buildID string
	arch          ABI
}

// NewBuilder returns an empty builder.
func NewBuilder() *Builder {
	return &Builder{index: make(map[programKey]*ProgramBuilder)}
}

// Program returns the builder of a program image; the first use of each image
// fixes the order of programs in the document.
func (b *Builder) Program(path, buildID string, arch ABI) *ProgramBuilder {
	key := programKey{path, buildID, arch}
	if p := b.index[key]; p != nil {
		return p
	}
	p := &ProgramBuilder{
		key:          key,
		objectIDs:    make(map[objectKey]ObjectID),
		parts:        make([]part, 1),
		partIDs:      make(map[partKey]PartID),
		compartments: []compartmentName{{name: Unknown, object: noObject}},
		named:        map[string]CompartmentID{Unknown: UnknownID},
		calls:        make(map[callKey]*call),
		chains:       make(map[string]*chain),
	}
	b.index[key] = p
	b.programs = append(b.programs, p)
	return p
}

// ProgramBuilder collects the observations of one program image.
type ProgramBuilder struct {
	key          programKey
	objects      []object
	objectIDs    map[objectKey]ObjectID
	parts        []part
	partIDs      map[partKey]PartID
	compartments []compartmentName
	named        map[string]CompartmentID
	calls        map[callKey]*call
	chains       map[string]*chain

	// LostEvents and BrokenStacks go to the losses as they are; the builder
	// counts unattributed calls itself.
	LostEvents, BrokenStacks uint64
	unresolved               []Site
	openEnds                 []openEnd
}

// ObjectID refers to an object of one ProgramBuilder.
type ObjectID int

// PartID refers to a part of an object of one ProgramBuilder. 0 is no part.
type PartID int

// CompartmentID refers to a compartment of one ProgramBuilder.
type CompartmentID int

// UnknownID is the compartment [unknown] of every ProgramBuilder.
const UnknownID CompartmentID = 0

const noObject ObjectID = -1

type object struct {
	key         objectKey
	compartment CompartmentID
	conduit     bool
}

type part struct {
	object      ObjectID
	compartment CompartmentID
	Part
}

type partKey struct {
	object ObjectID
	name   string
}

// compartmentName is a fixed name, or the final name of an object.
type compartmentName struct {
	name   string
	object ObjectID
}

// Site is a place in an object's code: a frame before objects have names.
type Site struct {
	Object   ObjectID
	Part     PartID // of the object; 0 for code that is in none
	Function string // demangled, empty if unknown
	Offset   uint64 // in bytes from the function's start; without one, in the file
}

type openEnd struct {
	site   Site
	reason string
}

// Call names a system call.
type Call struct {
	ABI  ABI
	NR   int
	Name string // empty: syscall_NR
}

// Observation is one or more equal system calls.
type Observation struct {
	Call     Call
	Origin   CompartmentID // UnknownID counts as unattributed
	Via      string        // the conduit function that the origin called, empty if none
	Count    uint64        // calls seen; 0 for static evidence
	Evidence Evidence
	// Stack is an example, innermost first. Of several the shortest is kept,
	// so pass whole stacks only. May be empty.
	Stack []Site
	// Chain has the compartments on the stack, innermost first. May be empty.
	Chain []CompartmentID
}

type callKey struct {
	origin CompartmentID
	Call
}

type call struct {
	count          uint64
	static, traced bool
	via            map[string]struct{}
	example        []Site
}

type chain struct {
	compartments []CompartmentID
	calls        map[Call]struct{}
}

// Object registers an object and returns its id; the same path and build id
// give the same id. An empty compartment makes the object its own compartment.
// The first registration decides about compartment and conduit.
func (p *ProgramBuilder) Object(path, buildID, compartment string, conduit bool) ObjectID {
	key := objectKey{path, buildID}
	if id, ok := p.objectIDs[key]; ok {
		return id
	}
	id := ObjectID(len(p.objects))
	p.objectIDs[key] = id
	o := object{key: key, conduit: conduit}
	if compartment == "" && path == Unknown {
		compartment = Unknown
	}
	if compartment == "" {
		o.compartment = CompartmentID(len(p.compartments))
		p.compartments = append(p.compartments, compartmentName{object: id})
	} else {
		o.compartment = p.Compartment(compartment)
	}
	p.objects = append(p.objects, o)
	return id
}

// Compartment returns the id of a compartment with a name of its own, for
// groups of objects and parts of an object.
func (p *ProgramBuilder) Compartment(name string) CompartmentID {
	if id, ok := p.named[name]; ok {
		return id
	}
	id := CompartmentID(len(p.compartments))
	p.named[name] = id
	p.compartments = append(p.compartments, compartmentName{name: name, object: noObject})
	return id
}

// Part registers a part of an object and returns its id; the same name gives the
// same id.
func (p *ProgramBuilder) Part(object ObjectID, named Part) PartID {
	key := partKey{object, named.Name}
	if id, ok := p.partIDs[key]; ok {
		return id
	}
	id := PartID(len(p.parts))
	p.partIDs[key] = id
	p.parts = append(p.parts, part{object, p.Compartment(named.Name), named})
	return id
}

// CompartmentOf returns the compartment that an object belongs to.
func (p *ProgramBuilder) CompartmentOf(id ObjectID) CompartmentID {
	return p.objects[id].compartment
}

// CompartmentAt returns the compartment that the code at a site belongs to.
func (p *ProgramBuilder) CompartmentAt(s Site) CompartmentID {
	if s.Part != 0 {
		return p.parts[s.Part].compartment
	}
	return p.objects[s.Object].compartment
}

// conduit reports whether calls from a site are charged to the caller.
func (p *ProgramBuilder) conduit(s Site) bool {
	if s.Part != 0 {
		return p.parts[s.Part].Conduit
	}
	return p.objects[s.Object].conduit
}

// Charge applies the rule of attribution to a stack (innermost frame first):
// the origin is the compartment of the innermost frame that is not in a
// conduit; if all frames are in conduits, the outermost one. An empty stack,
// or one of conduits whose outer end is missing (whole is false), has the
// origin UnknownID. via is the conduit function that the origin called. chain
// has the distinct compartments without conduits, innermost first.
func (p *ProgramBuilder) Charge(stack []Site, whole bool) (origin CompartmentID, via string, chain []CompartmentID) {
	at := slices.IndexFunc(stack, func(s Site) bool { return !p.conduit(s) })
	if at < 0 {
		if len(stack) == 0 || !whole {
			return UnknownID, "", nil
		}
		// The origin's own frames are the outermost run of one conduit.
		at = len(stack) - 1
		for at > 0 && p.CompartmentAt(stack[at-1]) == p.CompartmentAt(stack[at]) {
			at--
		}
	}
	origin = p.CompartmentAt(stack[at])
	if at > 0 {
		via = stack[at-1].Function
	}
	chain = append(chain, origin)
	for _, s := range stack[at+1:] {
		if c := p.CompartmentAt(s); !p.conduit(s) && !slices.Contains(chain, c) {
			chain = append(chain, c)
		}
	}
	return origin, via, chain
}

// Add records an observation. It copies what it keeps of o.Stack and o.Chain.
func (p *ProgramBuilder) Add(o Observation) {
	if o.Call.Name == "" {
		o.Call.Name = "syscall_" + strconv.Itoa(o.Call.NR)
	}
	key := callKey{o.Origin, o.Call}
	c := p.calls[key]
	if c == nil {
		c = &call{via: make(map[string]struct{})}
		p.calls[key] = c
	}
	c.count = sum(c.count, o.Count)
	c.static = c.static || o.Evidence == Static
	c.traced = c.traced || o.Evidence == Traced
	if o.Via != "" {
		c.via[o.Via] = struct{}{}
	}
	if len(o.Stack) > 0 && (c.example == nil || p.compareStacks(o.Stack, c.example) < 0) {
		c.example = slices.Clone(o.Stack)
	}
	if len(o.Chain) > 0 {
		p.addChain(o.Chain, o.Call)
	}
}

func (p *ProgramBuilder) addChain(ids []CompartmentID, c Call) {
	var buf [64]byte
	key := buf[:0]
	for _, id := range ids {
		key = strconv.AppendInt(append(key, ' '), int64(id), 36)
	}
	ch := p.chains[string(key)]
	if ch == nil {
		ch = &chain{slices.Clone(ids), make(map[Call]struct{})}
		p.chains[string(key)] = ch
	}
	ch.calls[c] = struct{}{}
}

// compareStacks orders example stacks without their objects' final names, in
// an order that does not depend on when objects were registered.
func (p *ProgramBuilder) compareStacks(a, b []Site) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return slices.CompareFunc(a, b, func(x, y Site) int {
		kx, ky := p.objects[x.Object].key, p.objects[y.Object].key
		return cmp.Or(cmp.Compare(kx.path, ky.path), cmp.Compare(kx.buildID, ky.buildID),
			cmp.Compare(x.Function, y.Function), cmp.Compare(x.Offset, y.Offset))
	})
}

// AddUnresolved records a system call site whose number is unknown.
func (p *ProgramBuilder) AddUnresolved(s Site) { p.unresolved = append(p.unresolved, s) }

// AddOpenEnd records a place where unseen code is entered.
func (p *ProgramBuilder) AddOpenEnd(s Site, reason string) {
	p.openEnds = append(p.openEnds, openEnd{s, reason})
}

// Document makes the document of all observations so far.
func (b *Builder) Document() *Document {
	d := &Document{Schema: Schema, Programs: make([]Program, 0, len(b.programs))}
	for _, p := range b.programs {
		d.Programs = append(d.Programs, p.program())
	}
	d.canonicalize()
	return d
}

func (p *ProgramBuilder) program() Program {
	keys := make([]objectKey, len(p.objects))
	for i, o := range p.objects {
		keys[i] = o.key
	}
	n := names{objects: uniqueNames(keys), compartments: make([]string, len(p.compartments))}
	for i, c := range p.compartments {
		n.compartments[i] = c.name
		if c.object != noObject {
			n.compartments[i] = n.objects[c.object]
		}
	}
	out := Program{Path: p.key.path, BuildID: p.key.buildID, Arch: p.key.arch}
	for i, o := range p.objects {
		out.Objects = append(out.Objects, Object{
			Name: n.objects[i], Path: o.key.path, BuildID: o.key.buildID, Compartment: n.compartments[o.compartment], Conduit: o.conduit,
		})
	}
	for _, part := range p.parts[1:] {
		out.Objects[part.object].Parts = append(out.Objects[part.object].Parts, part.Part)
	}
	out.Compartments = p.charged(n)
	for _, ch := range p.chains {
		out.Chains = append(out.Chains, p.namedChain(ch, n))
	}
	out.Losses = p.losses(n)
	return out
}

// names are the final names by id.
type names struct {
	objects, compartments []string
}

func (n names) frame(s Site) Frame {
	return Frame{n.objects[s.Object], s.Function, s.Offset}
}

func (n names) frames(stack []Site) []Frame {
	out := make([]Frame, len(stack))
	for i, s := range stack {
		out[i] = n.frame(s)
	}
	return out
}

// charged lists the compartments that make calls. A compartment with a name of
// its own may have the name of an object: they are one.
func (p *ProgramBuilder) charged(n names) []Compartment {
	var out []Compartment
	index := make(map[string]int)
	for key, c := range p.calls {
		name := n.compartments[key.origin]
		i, ok := index[name]
		if !ok {
			i = len(out)
			index[name] = i
			out = append(out, Compartment{Name: name})
		}
		s := Syscall{Name: key.Name, ABI: key.ABI, NR: key.NR, Count: c.count, Example: n.frames(c.example)}
		if c.static {
			s.Evidence = append(s.Evidence, Static)
		}
		if c.traced {
			s.Evidence = append(s.Evidence, Traced)
		}
		for v := range c.via {
			s.Via = append(s.Via, v)
		}
		out[i].Syscalls = append(out[i].Syscalls, s)
	}
	return out
}

func (p *ProgramBuilder) namedChain(ch *chain, n names) Chain {
	var out Chain
	for _, id := range ch.compartments {
		out.Compartments = append(out.Compartments, n.compartments[id])
	}
	for c := range ch.calls {
		out.Syscalls = append(out.Syscalls, label(p.key.arch, c.ABI, c.Name))
	}
	return out
}

func (p *ProgramBuilder) losses(n names) Losses {
	l := Losses{LostEvents: p.LostEvents, BrokenStacks: p.BrokenStacks}
	for key, c := range p.calls {
		if key.origin == UnknownID {
			l.Unattributed = sum(l.Unattributed, c.count)
		}
	}
	for _, s := range p.unresolved {
		l.UnresolvedSites = append(l.UnresolvedSites, n.frame(s))
	}
	for _, e := range p.openEnds {
		f := n.frame(e.site)
		l.OpenEnds = append(l.OpenEnds, OpenEnd{f.Object, f.Function, f.Offset, e.reason})
	}
	return l
}
