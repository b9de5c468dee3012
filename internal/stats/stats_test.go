package stats

import (
	"math"
	"slices"
	"testing"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

// document has a program of two libraries: the main program needs read (1), openat (3) and socket (2), the parser read
// (1) and mmap (2, static only), the loader mmap (2) and a call without a name.
func document() *attribution.Document {
	b := attribution.NewBuilder()
	p := b.Program("/opt/app", "", attribution.AMD64)
	add := func(path string, conduit bool, name string, nr int, count uint64, e attribution.Evidence) {
		o := p.Object(path, "", "", conduit)
		p.Add(attribution.Observation{Call: attribution.Call{ABI: attribution.AMD64, Name: name, NR: nr},
			Origin: p.CompartmentOf(o), Count: count, Evidence: e})
	}
	add("/opt/app", false, "read", 0, 5, attribution.Traced)
	add("/opt/app", false, "openat", 257, 1, attribution.Traced)
	add("/opt/app", false, "socket", 41, 1, attribution.Traced)
	add("/opt/libparser.so", false, "read", 0, 1, attribution.Traced)
	add("/opt/libparser.so", false, "mmap", 9, 0, attribution.Static)
	add("/lib/ld.so", true, "mmap", 9, 3, attribution.Traced)
	add("/lib/ld.so", true, "", 4000, 1, attribution.Traced)
	b.Program("/opt/nothing", "", attribution.AMD64)
	return b.Document()
}

func TestOf(t *testing.T) {
	programs := Of(document())
	p := &programs[0]
	// The union: read 1, openat 3, socket 2, mmap 2, syscall_4000 3.
	if p.Union.Privilege != 11 || p.Privilege != 6 || math.Abs(p.Reduction-5.0/11) > 1e-9 {
		t.Errorf("union %d, divided %d, reduction %f, want 11, 6, 5/11", p.Union.Privilege, p.Privilege, p.Reduction)
	}
	want := []struct {
		name      string
		privilege int
		own       []string
		conduit   bool
	}{
		{"app", 6, []string{"openat", "socket"}, false},
		{"ld.so", 5, []string{"syscall_4000"}, true},
		{"libparser.so", 3, []string{}, false},
	}
	if len(p.Compartments) != len(want) {
		t.Fatalf("%d compartments, want %d", len(p.Compartments), len(want))
	}
	for i, w := range want {
		c := p.Compartments[i]
		if c.Name != w.name || c.Privilege != w.privilege || !slices.Equal(c.Own, w.own) || c.Conduit != w.conduit {
			t.Errorf("compartment %d is %+v, want %+v", i, c, w)
		}
	}
	// libparser shares one of its two calls with each of the others.
	if pair := p.Closest("libparser.so"); pair == nil || pair.Overlap != 1.0/3 || len(p.Pairs) != 2 {
		t.Errorf("closest %+v of %+v", pair, p.Pairs)
	}
	if len(p.Shared) != 2 || p.Shared[0].Syscall != "mmap" || p.Shared[0].Cost() != 2 || p.Shared[1].Cost() != 1 {
		t.Errorf("shared %+v, want mmap, then read", p.Shared)
	}
	if got, want := p.Separation(), 1-3.0/11; math.Abs(got-want) > 1e-9 {
		t.Errorf("separation %f, want %f", got, want)
	}
	if empty := programs[1]; empty.Reduction != 0 || empty.Separation() != 0 {
		t.Errorf("a program without calls: %+v", empty)
	}
}

func TestEvidence(t *testing.T) {
	p := Of(document(), attribution.Traced)[0]
	if i := slices.IndexFunc(p.Compartments, func(c Compartment) bool { return c.Name == "libparser.so" }); i < 0 ||
		!slices.Equal(p.Compartments[i].Syscalls, []string{"read"}) {
		t.Errorf("with traced evidence only: %+v", p.Compartments)
	}
	if p := Of(document(), attribution.Static)[0]; len(p.Compartments) != 1 || p.Union.Privilege != 2 {
		t.Errorf("with static evidence only: %+v", p)
	}
}

// TestWeight: every call that the tables know has the weight of its class, with or without an ABI in front.
func TestWeight(t *testing.T) {
	for _, abi := range []syscalls.ABI{syscalls.AMD64, syscalls.I386, syscalls.X32, syscalls.ARM64} {
		for _, name := range syscalls.All(abi) {
			if w := weight(abi.String() + ":" + name); w != syscalls.Danger(name) || w < 1 || w > 3 {
				t.Errorf("%s:%s weighs %d", abi, name, w)
			}
		}
	}
	if weight("syscall_9999") != 3 {
		t.Error("a call without a name does not weigh 3")
	}
}

func TestRows(t *testing.T) {
	programs := Of(document())
	if rows := CompartmentRows(programs); len(rows) != 3 || rows[0].Syscalls != "openat;read;socket" || rows[0].ProgramUnion != 11 {
		t.Errorf("rows %+v", rows)
	}
	if rows := PairRows(programs); len(rows) != 2 {
		t.Errorf("pairs %+v", rows)
	}
	if rows := SharedRows(programs); len(rows) != 2 || rows[0].Compartments != "ld.so;libparser.so" {
		t.Errorf("shared %+v", rows)
	}
}
