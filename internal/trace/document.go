package trace

import (
	"bulkhead/internal/attribution"
	"bulkhead/internal/bpf"
	"bulkhead/internal/dso"
	"bulkhead/internal/objfile"
	"bulkhead/internal/region"
)

// document makes the attribution document of an ended session.
func (s *session) document() *attribution.Document {
	for key, calls := range s.counts.Counts() {
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
	w.mapped()
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
	p := &program{w.builder.Program(obj.path, obj.buildID(), attribution.AMD64), map[bpf.ObjectID]attribution.ObjectID{}}
	w.programs[id] = p
	return p
}

// unknownObject stands for code that could not be attributed.
var unknownObject = &object{
	path:    attribution.Unknown,
	symbols: func() *objfile.Symbolizer { return nil },
	reading: func() *reading { return &reading{regions: func() *region.Map { return region.Whole(false) }} },
}

// object is the object with a number, or a stand-in for a file that was gone before it was read.
func (w *writer) object(id bpf.ObjectID) *object {
	if id == bpf.ObjectUnknown {
		return unknownObject
	}
	return w.objects.giveUp(id)
}

// mapped adds the objects that are on no stack.
func (w *writer) mapped() {
	for image, objects := range w.seen.images {
		program, err := w.objects.openMapping(processMapping{mapping: mapping{Mapping: dso.Mapping{File: image}}})
		if err != nil || program == nil || w.programs[program.id] == nil {
			continue
		}
		for id := range objects {
			w.known(w.programs[program.id], id)
		}
	}
}

// known is the builder's number of an object.
func (w *writer) known(p *program, id bpf.ObjectID) attribution.ObjectID {
	known, ok := p.objects[id]
	if !ok {
		obj := w.object(id)
		regions := obj.regions()
		known = p.Object(obj.path, obj.buildID(), "", regions.Parts[0].Conduit)
		p.objects[id] = known
		for _, part := range regions.Parts[1:] {
			p.Part(known, attribution.Part(part))
		}
	}
	return known
}

// sites names the functions that are active in a frame, innermost first.
func (w *writer) sites(p *program, f bpf.Frame) []attribution.Site {
	obj := w.object(bpf.ObjectID(f.Object))
	regions, known := obj.regions(), w.known(p, bpf.ObjectID(f.Object))
	var sites []attribution.Site
	for _, c := range obj.calls(f.Offset) {
		site := attribution.Site{Object: known, Function: c.function, Offset: c.offset}
		if c.part != 0 {
			site.Part = p.Part(known, attribution.Part(regions.Parts[c.part]))
		}
		sites = append(sites, site)
	}
	return sites
}

// stack leaves out where all stacks of a kind begin.
func (w *writer) stack(p *program, frames []bpf.Frame) []attribution.Site {
	sites := make([]attribution.Site, 0, len(frames))
	for i, f := range frames {
		if obj := w.object(bpf.ObjectID(f.Object)); i == 0 || !obj.regions().At(uint64(f.Offset)).Base {
			sites = append(sites, w.sites(p, f)...)
		}
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
		o.Origin, _, _ = p.Charge(w.sites(p, key.Origin), true)
		o.Via = w.via(&key)
	}
	p.Add(o)
}

// via names the conduit function that the origin called.
func (w *writer) via(key *bpf.CountKey) string {
	via := w.object(bpf.ObjectID(key.Via.Object))
	if bpf.ObjectID(key.Via.Object) == bpf.ObjectUnknown {
		via = nil
	}
	return viaOf(w.object(bpf.ObjectID(key.Origin.Object)), key.Origin.Offset, via, key.Via.Offset)
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
	for key, n := range w.counts.Tallies() {
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
		w.program(w.seen.programs[0]).LostEvents += w.counts.Missed() + w.lost
	}
}
