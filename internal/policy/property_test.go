package policy

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pelletier/go-toml/v2/unstable"
	"pgregory.net/rapid"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

// ignorePlaces leaves out what depends on the file.
var ignorePlaces = cmp.Options{
	cmpopts.IgnoreFields(Policy{}, "File"), cmpopts.IgnoreFields(Program{}, "Line"),
	cmpopts.IgnoreFields(Compartment{}, "Line"), cmpopts.IgnoreFields(List{}, "Line"),
	cmpopts.IgnoreFields(Call{}, "Line", "Column"),
}

var (
	labels = []string{
		"read", "write", "openat", "open", "execve", "mprotect", "clone", "clone3", "futex", "rt_sigreturn", "brk",
		"i386:open", "i386:write", "x32:read", "syscall_999", "@file-system", "i386:@basic-io", "getpid",
	}
	names = []string{
		"app", "libssl.so.3", "libcrypto.so.3", "libz.so.1.2.13", "libc.so.6", "ld-linux-x86-64.so.2", "[anonymous]",
		"[memfd:jit]", "[vdso]", "[", "a b", `back\slash`, `quo"te`, "it's", "star*", "ümlaut", "mod-1.2.so",
	}
)

func comments(t *rapid.T, label string) string {
	return rapid.SampledFrom([]string{"", "why", "two words # and more", "\"quoted\""}).Draw(t, label)
}

func drawList(t *rapid.T, label string) List {
	l := List{Calls: []Call{}}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(labels), 0, 6, rapid.ID[string]).Draw(t, label) {
		l.Calls = append(l.Calls, Call{Name: name, Heading: comments(t, "heading"), Note: comments(t, "note")})
	}
	if !slices.ContainsFunc(l.Calls, func(c Call) bool { return c.Heading != "" || c.Note != "" }) {
		slices.SortFunc(l.Calls, func(a, b Call) int { return strings.Compare(a.Name, b.Name) }) // as Format does
	}
	return l
}

func drawPolicy(t *rapid.T) *Policy {
	p := &Policy{
		Head:        comments(t, "head"),
		Check:       rapid.SampledFrom([]Check{Origin, Chain}).Draw(t, "check"),
		OnViolation: rapid.SampledFrom([]OnViolation{Deny, Kill, Audit}).Draw(t, "on-violation"),
		OnExec:      rapid.SampledFrom([]OnExec{DenyExec, InheritExec}).Draw(t, "on-exec"),
	}
	if rapid.Bool().Draw(t, "conduits") {
		p.Conduits = []string{"libjemalloc.so.*"}
	}
	if rapid.Bool().Draw(t, "baseline") {
		p.Baseline = drawList(t, "baseline")
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "programs") {
		program := Program{Path: fmt.Sprintf("/opt/app%d", i), Note: comments(t, "note")}
		for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 5, rapid.ID[string]).Draw(t, "names") {
			c := Compartment{Name: name, Match: []string{escape(name)}, Allow: drawList(t, "allow"), Note: comments(t, "note")}
			if name[0] == '[' && name != "[" {
				c.Match = []string{name}
			}
			program.Compartments = append(program.Compartments, c)
		}
		program.Compartments = append(program.Compartments,
			Compartment{Name: "mod", Match: []string{program.Path}, Modules: []string{"example.com/x"}, Allow: drawList(t, "allow")},
			Compartment{Name: attribution.Unknown, Allow: drawList(t, "allow")})
		p.Programs = append(p.Programs, program)
	}
	return p
}

// TestTextParses: what is written means the same, and is laid out already.
func TestTextParses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		text, err := p.Text()
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse("p", text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p, back, ignorePlaces); diff != "" {
			t.Fatalf("-written +read:\n%s\n%s", diff, text)
		}
		again, err := Format("p", text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(text), string(again)); diff != "" {
			t.Fatalf("formatting again changes the text:\n%s", diff)
		}
		if changes := Diff(p, back); len(changes) != 0 {
			t.Fatalf("a policy differs from itself: %v", changes)
		}
	})
}

// drawDocument makes a document of a few programs, whose calls may be of any
// ABI, with whole stacks.
func drawDocument(t *rapid.T, label string) *attribution.Document {
	b := attribution.NewBuilder()
	for i := range rapid.IntRange(1, 2).Draw(t, label+" programs") {
		path := fmt.Sprintf("/opt/app%d", i)
		p := b.Program(path, rapid.SampledFrom([]string{"aa", "bb"}).Draw(t, "build"), attribution.AMD64)
		objects := []attribution.ObjectID{p.Object(path, "aa", "", false)}
		for _, name := range names[1:] {
			file := "/usr/lib/" + name
			if name[0] == '[' && name != "[" {
				file = name
			}
			objects = append(objects, p.Object(file, "", "", attribution.Conduits{}.Match(file)))
		}
		module := p.Compartment("example.com/x") // of no object: an older document
		p.Part(objects[0], attribution.Part{Name: "example.com/y"})
		for range rapid.IntRange(0, 12).Draw(t, "calls") {
			drawCall(t, p, objects, module)
		}
	}
	return b.Document()
}

func drawCall(t *rapid.T, p *attribution.ProgramBuilder, objects []attribution.ObjectID, module attribution.CompartmentID) {
	abi := rapid.SampledFrom([]syscalls.ABI{syscalls.AMD64, syscalls.AMD64, syscalls.I386, syscalls.X32}).Draw(t, "abi")
	nr := rapid.SampledFrom([]int{0, 1, 9, 10, 12, 56, 59, 218, 257, 435, 999}).Draw(t, "nr")
	if abi == syscalls.X32 {
		nr |= syscalls.X32Bit
	}
	name, _ := syscalls.Name(abi, nr)
	var stack []attribution.Site
	for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(objects)-1), 1, 4).Draw(t, "stack") {
		stack = append(stack, attribution.Site{Object: objects[i], Function: rapid.SampledFrom([]string{"malloc", "f"}).Draw(t, "function")})
	}
	origin, via, chain := p.Charge(stack, true)
	if rapid.IntRange(0, 9).Draw(t, "module") == 0 {
		origin, chain[0], stack = module, module, nil
	}
	o := attribution.Observation{
		Call:   attribution.Call{ABI: attribution.ABI(abi.String()), NR: nr, Name: name},
		Origin: origin, Via: via, Evidence: attribution.Static, Stack: stack, Chain: chain,
	}
	if rapid.Bool().Draw(t, "traced") {
		o.Evidence, o.Count = attribution.Traced, 3
	}
	p.Add(o)
}

func drawOptions(t *rapid.T) Options {
	o := Options{
		Baseline: rapid.Bool().Draw(t, "baseline"), Incomplete: true,
		Check: rapid.SampledFrom([]Check{Origin, Chain}).Draw(t, "check"),
	}
	if rapid.Bool().Draw(t, "groups") {
		o.Groups = []Group{{"tls", []string{"libssl.so.*", "libcrypto.so.*"}}, {"lib", []string{"lib*"}}, {"go", []string{"example.com/..."}}}
	}
	return o
}

// TestDerivedAllows: a policy denies nothing of the document that it is derived
// from.
func TestDerivedAllows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawDocument(t, "document")
		p, err := Derive(d, drawOptions(t))
		if err != nil {
			t.Skip(err) // no calls
		}
		text, err := p.Text()
		if err != nil {
			t.Fatal(err)
		}
		if p, err = Parse("p", text); err != nil {
			t.Fatal(err)
		}
		if v := p.Violations(d); len(v) > 0 {
			t.Fatalf("%+v\n%s", v, text)
		}
	})
}

// TestDerivedInAnyOrder: the order of evidence does not matter.
func TestDerivedInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := drawDocument(t, "a"), drawDocument(t, "b"), drawDocument(t, "c")
		o := drawOptions(t)
		var want string
		for _, docs := range [][]*attribution.Document{{a, b, c}, {c, b, a}, {b, attribution.Merge(c, a)}} {
			p, err := Derive(attribution.Merge(docs...), o)
			if err != nil {
				t.Skip(err) // no calls
			}
			text, err := p.Text()
			if err != nil {
				t.Fatal(err)
			}
			if want == "" {
				want = string(text)
			}
			if diff := cmp.Diff(want, string(text)); diff != "" {
				t.Fatalf("another order gives another policy:\n%s", diff)
			}
		}
	})
}

// TestMoreEvidenceAllowsMore: evidence is never a reason to deny.
func TestMoreEvidenceAllowsMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawDocument(t, "a"), drawDocument(t, "b")
		o := drawOptions(t)
		more, err := Derive(attribution.Merge(a, b), o)
		if err != nil {
			t.Skip(err)
		}
		for _, d := range []*attribution.Document{a, b} {
			if v := more.Violations(d); len(v) > 0 {
				t.Fatalf("%+v", v)
			}
		}
	})
}

// TestExtend: a policy that was extended denies nothing of the document, allows
// what it did before, and has its comments.
func TestExtend(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawDocument(t, "a"), drawDocument(t, "b")
		before, err := Derive(a, drawOptions(t))
		if err != nil {
			t.Skip(err)
		}
		text, err := before.Text()
		if err != nil {
			t.Fatal(err)
		}
		more, added, err := Extend("p", text, b, Options{Incomplete: true})
		if err != nil {
			t.Fatal(err)
		}
		after, err := Parse("p", more)
		if err != nil {
			t.Fatal(err)
		}
		if v := after.Violations(b); len(v) > 0 {
			t.Fatalf("denies %+v\n%s", v, more)
		}
		if v := after.Violations(a); len(v) > 0 {
			t.Fatalf("denies what it did not before: %+v\n%s", v, more)
		}
		if (len(added) == 0) != (string(more) == string(text)) {
			t.Fatalf("added %d: %s", len(added), cmp.Diff(string(text), string(more)))
		}
		have := commentsOf(more)
		for _, c := range commentsOf(text) {
			if !slices.Contains(have, c) {
				t.Fatalf("the comment %q is gone:\n%s", c, more)
			}
		}
	})
}

// FuzzParse: no input makes Parse or Format panic; what parses can be laid out
// to what means the same, with all its comments, once and for all.
func FuzzParse(f *testing.F) {
	f.Add([]byte(server))
	ugly, err := os.ReadFile("testdata/format.in")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ugly)
	f.Add([]byte("schema = \"bulkhead.policy/v1\"\n[[program]]\npath=\"/x\" # y\n\n# z\n[[program.compartment]]\nname='a'\nallow=[\n# b\n'read',# c\n]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("f", data)
		if err != nil {
			return
		}
		text, err := Format("f", data)
		if err != nil {
			t.Fatalf("parses, but: %v", err)
		}
		back, err := Parse("f", text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if changes := Diff(p, back); len(changes) != 0 {
			t.Fatalf("the layout changed the meaning: %v\n%s", changes, text)
		}
		if diff := cmp.Diff(commentsOf(data), commentsOf(text)); diff != "" {
			t.Fatalf("comments differ:\n%s\n%s", diff, text)
		}
		again, err := Format("f", text)
		if err != nil || string(again) != string(text) {
			t.Fatalf("not laid out once and for all: %v\n%q\n%q", err, text, again)
		}
		for _, program := range p.Programs {
			r, ok := p.Rules(program.Path)
			if !ok {
				t.Fatalf("no rules for %s", program.Path)
			}
			r.Compartment("/usr/lib/libssl.so.3")
		}
	})
}

// commentsOf returns all comments of a file, in their order.
func commentsOf(data []byte) (out []string) {
	var walk func(n *unstable.Node)
	walk = func(n *unstable.Node) {
		for ; n != nil && n.Valid(); n = n.Next() {
			if n.Kind == unstable.Comment {
				out = append(out, strings.TrimRight(string(n.Data), " \t\r"))
			}
			walk(n.Child())
		}
	}
	p := unstable.Parser{KeepComments: true}
	p.Reset(data)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind == unstable.KeyValue { // the value's comments come before the one behind it
			walk(e.Child())
			walk(e.Next())
		} else {
			walk(e)
		}
	}
	return out
}
