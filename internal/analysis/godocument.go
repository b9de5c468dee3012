package analysis

import (
	"maps"
	"slices"

	"bulkhead/internal/attribution"
)

// goOrigins adds what the parts of a Go object are charged with.
func (w *writer) goOrigins(g *goProgram) {
	id := w.ids[g.l.index]
	for _, part := range g.regions.Parts[1:] {
		w.p.Part(id, attribution.Part(part))
	}
	origins := g.origins()
	p := newGoPaths(g)
	for i := range g.calls {
		searched := false
		var paths map[uint16][]goStep
		for _, o := range origins {
			if !o.set.has(i) {
				continue
			}
			if !searched {
				p.search(i)
				paths, searched = p.witnesses(i), true
			}
			compartment := w.p.CompartmentAt(attribution.Site{Object: id, Part: w.goPart(g, o.part)})
			obs := attribution.Observation{
				Call: w.call(i), Origin: compartment, Evidence: attribution.Static,
				Stack: w.goStack(g, paths[o.part]), Chain: []attribution.CompartmentID{compartment},
			}
			w.p.Add(obs)
			obs.Stack, obs.Chain = nil, nil
			for _, via := range slices.Sorted(maps.Keys(o.vias[i])) {
				obs.Via = via
				w.p.Add(obs)
			}
		}
	}
}

func (w *writer) goPart(g *goProgram, part uint16) attribution.PartID {
	if part == 0 {
		return 0
	}
	return w.p.Part(w.ids[g.l.index], attribution.Part(g.regions.Parts[part]))
}

// goStack turns a witness, outermost first, into a stack with the functions that were
// inlined.
func (w *writer) goStack(g *goProgram, steps []goStep) []attribution.Site {
	var out []attribution.Site
	inlinedInto := int32(-1)
	for _, s := range slices.Backward(steps) {
		fn := g.nodes[s.node].fn
		if fn < 0 || s.node == inlinedInto {
			continue // a set of functions, or the way to code that was inlined
		}
		addr := g.l.Funcs[fn].Start + uint64(s.off)
		offset, _ := g.file.VaddrToOffset(addr)
		calls := g.regions.Calls(addr, offset)
		for i, c := range calls {
			site := attribution.Site{Object: w.ids[g.l.index], Part: w.goPart(g, c.Part), Function: c.Function}
			if i == len(calls)-1 {
				site.Offset = uint64(s.off)
			}
			out = append(out, site)
		}
		inlinedInto = -1
		if s.node != fn {
			inlinedInto = fn
		}
	}
	if len(out) > maxWitness {
		out = out[:maxWitness]
	}
	return out
}
