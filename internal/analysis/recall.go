package analysis

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"bulkhead/internal/attribution"
	"bulkhead/internal/dso"
	"bulkhead/internal/objfile"
)

// Document returns the document of the program at path. With a cache it is
// computed once: an analysis depends on the objects that the program loads, on
// the options, on this build of Bulkhead, and on the answers to what it asks the
// file system as it goes (which further libraries are there, a configuration
// file). So the questions are kept, asked again, and where all contents and answers
// are as they were, the document is what it was.
func Document(path string, opts Options) (*attribution.Document, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	if d := recall(path, &opts); d != nil {
		return d, nil
	}
	r, err := Analyze(path, opts)
	if err != nil {
		return nil, err
	}
	d := r.Document()
	r.remember(d, &opts)
	return d, nil
}

// A question is one that an analysis asks the file system.
type question struct {
	Kind questionKind
	Text string // the library's name, the pattern, the file
	By   int    // of an opening: the object that opens, by index
}

type questionKind string

const (
	askOpen   questionKind = "open"
	askGlob   questionKind = "glob"
	askConfig questionKind = "config"
)

// An asker asks the set of a program's objects, and notes what was asked and a
// hash of the answers.
type asker struct {
	*dso.Set
	start     int // objects before the first question
	questions []question
	answers   hash.Hash
}

func newAsker(set *dso.Set) *asker {
	return &asker{Set: set, start: len(set.Objects()), answers: sha256.New()}
}

func (a *asker) note(q question, answer any) {
	a.questions = append(a.questions, q)
	fmt.Fprintf(a.answers, "%s %q %d %q\n", q.Kind, q.Text, q.By, fmt.Sprint(answer))
}

func (a *asker) Open(name string, by *dso.Object) (*dso.Object, error) {
	o, err := a.Set.Open(name, by)
	if err == nil {
		a.note(question{askOpen, name, slices.Index(a.Objects(), by)}, slices.Index(a.Objects(), o))
	}
	return o, err
}

func (a *asker) Glob(pattern string) []string {
	list := a.Set.Glob(pattern)
	a.note(question{Kind: askGlob, Text: pattern}, list)
	return list
}

func (a *asker) ReadConfig(name string) []byte {
	data := a.Set.ReadConfig(name)
	a.note(question{Kind: askConfig, Text: name}, string(data))
	return data
}

// again asks the questions of an earlier analysis. It fails where they make no
// sense for this program.
func (a *asker) again(questions []question) error {
	for _, q := range questions {
		switch q.Kind {
		case askOpen:
			if q.By < 0 || q.By >= len(a.Objects()) {
				return fmt.Errorf("no object %d", q.By)
			}
			if _, err := a.Open(q.Text, a.Objects()[q.By]); err != nil {
				return err
			}
		case askGlob:
			a.Glob(q.Text)
		case askConfig:
			a.ReadConfig(q.Text)
		}
	}
	return nil
}

// tool identifies this build of Bulkhead; "" if it does not say.
var tool = sync.OnceValue(func() string {
	f, err := objfile.Open("/proc/self/exe")
	if err != nil {
		return ""
	}
	defer f.Close()
	return f.BuildID
})

// startKey names the entry with the questions: what is known before the first.
func (a *asker) startKey(contents []contentHash, opts *Options) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s %q %q %v %q %q %q\n", tool(), opts.Loading, opts.Conduits, opts.LeaveOut, opts.Plugins, opts.GoBy, opts.Symbols)
	for i, o := range a.Objects()[:a.start] {
		fmt.Fprintf(h, "%q %x\n", o.Target, contents[i])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// endKey names the entry with the document: all that went into it.
func (a *asker) endKey(start string, contents []contentHash) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s %x %q\n", start, a.answers.Sum(nil), a.Missing())
	for i, o := range a.Objects() {
		fmt.Fprintf(h, "%q %q %q %v %v %v %q %x\n",
			o.Name, o.Path, o.Target, o.Interp, o.Preloaded, o.Opened, o.RequestedAs, contents[i])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

const (
	questionsSuffix = ".questions"
	documentSuffix  = ".document"
)

// recall returns the document of an earlier analysis, nil if there is none that
// is sure to be what an analysis would find now.
func recall(path string, opts *Options) *attribution.Document {
	c := opts.Summaries
	if c == nil || tool() == "" {
		return nil
	}
	set, err := dso.Load(path, opts.Loading)
	if err != nil {
		return nil // the analysis will say it
	}
	a := newAsker(set)
	contents, err := c.contents(nil, a.Objects())
	if err != nil {
		return nil
	}
	start := a.startKey(contents, opts)
	var questions []question
	if json.Unmarshal(c.files.Get(start+questionsSuffix), &questions) != nil || a.again(questions) != nil {
		return nil
	}
	if contents, err = c.contents(contents, a.Objects()); err != nil {
		return nil
	}
	d := new(attribution.Document)
	if d.UnmarshalBinary(c.files.Get(a.endKey(start, contents)+documentSuffix)) != nil {
		return nil
	}
	return d
}

// remember keeps the document for recall.
func (r *Result) remember(d *attribution.Document, opts *Options) {
	c := opts.Summaries
	if c == nil || tool() == "" || slices.Contains(r.charge.contents, contentHash{}) {
		return
	}
	questions, err := json.Marshal(r.asked.questions)
	if err != nil {
		return
	}
	data, err := d.MarshalBinary()
	if err != nil {
		return
	}
	contents := r.charge.contents
	start := r.asked.startKey(contents, opts)
	if c.files.Put(r.asked.endKey(start, contents)+documentSuffix, data) == nil {
		_ = c.files.Put(start+questionsSuffix, questions) // only saves time
	}
}

// contents hashes the objects beyond those of which the hashes are known.
func (c *Cache) contents(known []contentHash, objects []*dso.Object) ([]contentHash, error) {
	out := append(known, make([]contentHash, len(objects)-len(known))...)
	var g errgroup.Group
	g.SetLimit(8)
	for i := len(known); i < len(objects); i++ {
		g.Go(func() (err error) {
			out[i], err = c.contentOf(objects[i].Path)
			return err
		})
	}
	return out, g.Wait()
}
