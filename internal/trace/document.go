package trace

import (
	"bulkhead/internal/attribution"
	"bulkhead/internal/bpf"
)

// document makes the attribution document of an ended session.
func (s *session) document() *attribution.Document {
	for key, calls := range s.tracer.Counts() {
		s.seen.add(key, calls)
	}
	w := &writer{session: s, builder: attribution.NewBuilder(), programs: map[bpf.ObjectID]*program{}}
	for _, id := range s.seen.programs {
		w.program(id)
	}
	for key, calls := range s.seen.counts {
		w.calls(key, calls)
	}
	for key, frames := range s.seen.chains {
		w.chain(key, frames)
	}
	w.losses()
	return w.builder.Document()
}

type writer struct {
	*session
	builder  *attribution.Builder
	programs map[bpf.ObjectID]*program
}

// program is the builder of a program image, with the builder's numbers for the kernel's objects.
type program struct {
	*attribution.ProgramBuilder
	objects map[bpf.ObjectID]attribution.ObjectID
}

func (w *writer) program(id bpf.ObjectID) *program {
	if p := w.programs[id]; p != nil {
		return p
	}
	obj := w.object(id)
	p := &program{w.builder.Program(obj.path, obj.buildID, attribution.AMD64), map[bpf.ObjectID]attribution.ObjectID{}}
	w.programs[id] = p
	return p
}

// object is the object with a number, or a stand-in for a file that was gone before it was read.
func (w *writer) object(id bpf.ObjectID) *object {
	if id == bpf.ObjectUnknown {
		return &object{path: attribution.Unknown, symbols: noSymbols}
	}
	return w.objects.giveUp(id)
}

func (w *writer) site(p *program, f bpf.Frame) attribution.Site {
	id := bpf.ObjectID(f.Object)
	obj := w.object(id)
	known, ok := p.objects[id]
	if !ok {
		known = p.Object(obj.path, obj.buildID, "", obj.conduit)
		p.objects[id] = known
	}
	function, offset := obj.symbolize(f.Offset)
	return attribution.Site{Object: known, Function: function, Offset: offset}
}

func (w *writer) stack(p *program, frames []bpf.Frame) []attribution.Site {
	sites := make([]attribution.Site, len(frames))
	for i, f := range frames {
		sites[i] = w.site(p, f)
	}
	return sites
}

func (w *writer) calls(key bpf.CountKey, calls uint64) {
	p := w.program(bpf.ObjectID(key.Program))
	o := attribution.Observation{
		Call:     callOf(key.Nr, key.Abi),
		Count:    calls,
		Evidence: attribution.Traced,
		Stack:    w.stack(p, w.seen.examples[key]),
	}
	if key.Origin.Object != uint32(bpf.ObjectUnknown) {
		o.Origin = p.CompartmentOf(w.site(p, key.Origin).Object)
		if key.Via.Object != uint32(bpf.ObjectUnknown) {
			o.Via = w.via(p, key)
		}
	}
	p.Add(o)
}

// via names the conduit function that the origin called: by the origin's call, when the conduit has such a function (the
// origin may call one of its own that jumps there), else by the frame that was called, else by its place in the file.
func (w *writer) via(p *program, key bpf.CountKey) string {
	origin, conduit := w.object(bpf.ObjectID(key.Origin.Object)), w.object(bpf.ObjectID(key.Via.Object))
	if name := origin.callee(uint64(key.Origin.Offset) + 1); name != "" && conduit.exports()[name] {
		return name
	}
	site := w.site(p, key.Via)
	if site.Function != "" {
		return site.Function
	}
	return attribution.ObjectName(conduit.path) + "+" + hex(site.Offset)
}

func (w *writer) chain(key chainKey, frames []bpf.Frame) {
	p := w.program(bpf.ObjectID(key.program))
	sites := w.stack(p, frames)
	origin, _, chain := p.Charge(sites, true)
	p.Add(attribution.Observation{
		Call: callOf(key.nr, key.abi), Origin: origin, Evidence: attribution.Traced, Chain: chain,
	})
}

// losses tells what was not seen. What belongs to no program goes to the first.
func (w *writer) losses() {
	for key, n := range w.tracer.Tallies() {
		p := w.program(key.Program)
		switch key.Tally {
		case bpf.TallyLost, bpf.TallyUntracked:
			p.LostEvents += n
		case bpf.TallyBroken, bpf.TallyLostStacks:
			p.BrokenStacks += n
		}
	}
	for id, n := range w.seen.breaks {
		w.program(id).BrokenStacks += n
	}
	if len(w.seen.programs) > 0 {
		w.program(w.seen.programs[0]).LostEvents += w.tracer.Missed() + w.lost
	}
}
