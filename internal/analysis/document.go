package analysis

import (
	"fmt"
	"slices"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

// abis maps the tables of instructions to those of documents.
var abis = map[syscalls.ABI]attribution.ABI{
	syscalls.AMD64: attribution.AMD64,
	syscalls.I386:  attribution.I386,
	syscalls.X32:   attribution.X32,
}

// maxWitness bounds the frames of an example.
const maxWitness = 64

// Document returns the attribution document of the program.
func (r *Result) Document() *attribution.Document {
	c := r.charge
	b := attribution.NewBuilder()
	main := c.objects[0]
	w := &writer{Result: r, p: b.Program(r.path, main.BuildID, attribution.AMD64)}
	for _, l := range c.objects {
		id := w.p.Object(l.object.Target, l.BuildID, "", l.conduit)
		w.ids = append(w.ids, id)
	}
	w.origins()
	for _, g := range w.golang {
		if g != nil {
			w.goOrigins(g)
		}
	}
	w.chains()
	w.losses()
	return b.Document()
}

// A writer fills the builder.
type writer struct {
	*Result
	p   *attribution.ProgramBuilder
	ids []attribution.ObjectID
}

func (w *writer) call(i int) attribution.Call {
	no := w.charge.calls[i]
	name, _ := syscalls.Name(no.abi, no.nr)
	return attribution.Call{ABI: abis[no.abi], NR: no.nr, Name: name}
}

func (w *writer) compartment(l *linked) attribution.CompartmentID {
	return w.p.CompartmentOf(w.ids[l.index])
}

func (w *writer) origins() {
	p := newPaths(w.charge)
	for i := range w.charge.calls {
		p.search(i)
		for j := range w.Result.origins {
			o := &w.Result.origins[j]
			if !o.set.has(i) {
				continue
			}
			obs := attribution.Observation{
				Call: w.call(i), Origin: w.compartment(o.object), Evidence: attribution.Static,
				Stack: w.stack(p.witness(o, i)), Chain: []attribution.CompartmentID{w.compartment(o.object)},
			}
			w.p.Add(obs)
			obs.Stack, obs.Chain = nil, nil
			for _, via := range w.vias(w.charge.via(o, i)) {
				obs.Via = via
				w.p.Add(obs)
			}
		}
	}
}

func (w *writer) vias(funcs []fid) []string {
	var out []string
	for _, f := range funcs {
		if name := w.names.function(f); name != "" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// stack turns a witness, outermost first, into a stack.
func (w *writer) stack(steps []step) []attribution.Site {
	var out []attribution.Site
	for _, s := range slices.Backward(steps) {
		out = append(out, w.site(s.fn, s.off))
	}
	if len(out) > maxWitness {
		out = out[:maxWitness]
	}
	return out
}

func (w *writer) site(f fid, off uint32) attribution.Site {
	l := w.charge.owner[f]
	name, at := w.names.at(l, l.Funcs[f-l.first].Start+uint64(off))
	return attribution.Site{Object: w.ids[l.index], Function: name, Offset: at}
}

// chains says for every compartment what can happen below it that others are
// charged with.
func (w *writer) chains() {
	for j := range w.Result.origins {
		outer := &w.Result.origins[j]
		if outer.object.conduit {
			continue
		}
		outer.chain.each(func(i int) {
			for k := range w.Result.origins {
				inner := &w.Result.origins[k]
				if k == j || inner.object.conduit || !inner.set.has(i) || outer.set.has(i) {
					continue
				}
				w.p.Add(attribution.Observation{
					Call: w.call(i), Origin: w.compartment(inner.object), Evidence: attribution.Static,
					Chain: []attribution.CompartmentID{w.compartment(inner.object), w.compartment(outer.object)},
				})
			}
		})
	}
}

func (w *writer) losses() {
	for at := range w.charge.unresolved {
		w.p.AddUnresolved(w.site(at.fn, at.off))
	}
	for at, reason := range w.charge.openEnds {
		if w.charge.closed {
			break
		}
		w.p.AddOpenEnd(w.site(at.fn, at.off), reason)
	}
	for _, l := range w.charge.objects {
		for _, g := range l.Gaps {
			if f := l.first + g.Func; w.charge.reached[f] {
				w.p.AddOpenEnd(w.site(f, g.Off), "code that could not be decoded")
			}
		}
	}
	for _, m := range w.missing {
		for i, l := range w.charge.objects {
			if l.object.Path == m.Needed {
				w.p.AddOpenEnd(attribution.Site{Object: w.ids[i]},
					fmt.Sprintf("needs %s, which is not installed", m.Name))
			}
		}
	}
}
