package attribution

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// documents generates valid documents whose programs, objects and compartments
// often meet: few paths, few build ids, few calls.
func documents(evidence ...Evidence) *rapid.Generator[*Document] {
	return rapid.Custom(func(t *rapid.T) *Document {
		b := NewBuilder()
		for range rapid.IntRange(0, 3).Draw(t, "programs") {
			p := b.Program(rapid.SampledFrom([]string{"/bin/a", "/bin/b"}).Draw(t, "program"), "", AMD64)
			fillProgram(t, p, evidence)
		}
		return b.Document()
	})
}

func fillProgram(t *rapid.T, p *ProgramBuilder, evidence []Evidence) {
	var objects []ObjectID
	for range rapid.IntRange(1, 4).Draw(t, "objects") {
		objects = append(objects, p.Object(
			rapid.SampledFrom([]string{"/lib/x.so", "/opt/x.so", "/lib/y.so", "[vdso]"}).Draw(t, "path"),
			rapid.SampledFrom([]string{"", "1111111111", "2222222222"}).Draw(t, "build id"),
			rapid.SampledFrom([]string{"", "", "tls", "parsers"}).Draw(t, "compartment"),
			rapid.Bool().Draw(t, "conduit")))
	}
	sites := rapid.Custom(func(t *rapid.T) Site {
		return Site{Object: rapid.SampledFrom(objects).Draw(t, "object"), Function: rapid.SampledFrom([]string{"", "f", "g"}).Draw(t, "function"),
			Offset: rapid.Uint64Range(0, 2).Draw(t, "offset")}
	})
	for range rapid.IntRange(0, 6).Draw(t, "observations") {
		o := Observation{
			Call:     rapid.SampledFrom([]Call{{AMD64, 0, "read"}, {AMD64, 1, "write"}, {I386, 4, "write"}, {AMD64, 7777, ""}}).Draw(t, "call"),
			Evidence: rapid.SampledFrom(evidence).Draw(t, "evidence"),
			Stack:    rapid.SliceOfN(sites, 0, 3).Draw(t, "stack"),
		}
		if o.Evidence == Traced {
			o.Count = rapid.OneOf(rapid.Uint64Range(1, 5), rapid.Just(^uint64(0)-1)).Draw(t, "count")
		}
		o.Origin, o.Via, o.Chain = p.Charge(o.Stack, rapid.Bool().Draw(t, "whole"))
		p.Add(o)
	}
	if rapid.Bool().Draw(t, "losses") {
		p.AddUnresolved(sites.Draw(t, "site"))
		p.AddOpenEnd(sites.Draw(t, "site"), rapid.SampledFrom([]string{"dlopen", "call"}).Draw(t, "reason"))
		if slices.Contains(evidence, Traced) {
			p.LostEvents, p.BrokenStacks = rapid.Uint64Range(0, 3).Draw(t, "lost"), rapid.Uint64Range(0, 3).Draw(t, "broken")
		}
	}
}

// text is the document with its programs sorted: equal documents up to the
// order of programs have equal text.
func text(t *rapid.T, d *Document) string {
	sorted := Merge(d)
	slices.SortFunc(sorted.Programs, func(a, b Program) int { return bytes.Compare([]byte(a.Path), []byte(b.Path)) })
	return string(written(t, sorted))
}

func written(t *rapid.T, d *Document) []byte {
	var buf bytes.Buffer
	if err := d.Write(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestMergeCommutes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := documents(Static, Traced).Draw(t, "a"), documents(Static, Traced).Draw(t, "b")
		if ab, ba := text(t, Merge(a, b)), text(t, Merge(b, a)); ab != ba {
			t.Fatalf("a+b:\n%s\nb+a:\n%s", ab, ba)
		}
	})
}

func TestMergeAssociates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := documents(Static, Traced)
		a, b, c := g.Draw(t, "a"), g.Draw(t, "b"), g.Draw(t, "c")
		all := written(t, Merge(a, b, c))
		if left := written(t, Merge(Merge(a, b), c)); !bytes.Equal(left, all) {
			t.Fatalf("(a+b)+c:\n%s\na+b+c:\n%s", left, all)
		}
		if right := written(t, Merge(a, Merge(b, c))); !bytes.Equal(right, all) {
			t.Fatalf("a+(b+c):\n%s\na+b+c:\n%s", right, all)
		}
	})
}

func TestMergeStaticIsIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := documents(Static).Draw(t, "a")
		once, twice := written(t, a), written(t, Merge(a, a))
		if !bytes.Equal(once, twice) {
			t.Fatalf("a:\n%s\na+a:\n%s", once, twice)
		}
	})
}

// TestMergeSums checks against the inputs, not against another merge.
func TestMergeSums(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := documents(Traced).Draw(t, "a"), documents(Traced).Draw(t, "b")
		total := func(docs ...*Document) (calls, lost uint64) {
			for _, d := range docs {
				for i := range d.Programs {
					calls = sum(calls, d.Programs[i].Calls())
					lost += d.Programs[i].Losses.LostEvents
				}
			}
			return calls, lost
		}
		wantCalls, wantLost := total(a, b)
		before := written(t, a)
		calls, lost := total(Merge(a, b))
		if calls != wantCalls || lost != wantLost {
			t.Fatalf("calls %d lost %d, want %d %d", calls, lost, wantCalls, wantLost)
		}
		if !bytes.Equal(before, written(t, a)) {
			t.Fatal("merging changed its input")
		}
	})
}

func TestWriteReadRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		once := written(t, documents(Static, Traced).Draw(t, "a"))
		d, err := Read(bytes.NewReader(once))
		if err != nil {
			t.Fatal(err)
		}
		if again := written(t, d); !bytes.Equal(once, again) {
			t.Fatalf("written:\n%s\nread and written:\n%s", once, again)
		}
	})
}

// TestMergeRenames: two documents that each know one mod.so.
func TestMergeRenames(t *testing.T) {
	one := func(path, buildID string) *Document {
		b := NewBuilder()
		p := b.Program("/bin/a", "", AMD64)
		o := p.Object(path, buildID, "", false)
		p.Add(Observation{Call: Call{AMD64, 1, "write"}, Origin: p.CompartmentOf(o), Count: 1, Evidence: Traced,
			Stack: []Site{{Object: o}}, Chain: []CompartmentID{p.CompartmentOf(o)}})
		return b.Document()
	}
	p := Merge(one("/a/mod.so", "1111111111"), one("/b/mod.so", "2222222222")).Programs[0]
	for i, want := range []string{"mod.so@11111111", "mod.so@22222222"} {
		c := p.Compartments[i]
		if p.Objects[i].Name != want || p.Objects[i].Compartment != want || c.Name != want ||
			p.Chains[i].Compartments[0] != want || c.Syscalls[0].Example[0].Object != want {
			t.Errorf("names are not all %s: %+v", want, p)
		}
	}
}
