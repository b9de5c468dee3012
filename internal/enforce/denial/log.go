package denial

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"bulkhead/internal/attribution"
)

// Log takes denials as they happen. Safe for concurrent use.
type Log struct {
	text  func(string) // nil: nothing
	lines *json.Encoder

	mu      sync.Mutex
	err     error // the first of lines
	count   uint64
	told    map[kind]uint64 // what the text has told once is counted from then on
	order   []kind
	builder *attribution.Builder
}

// kind is what two denials have in common that the text tells once.
type kind struct {
	program, compartment string
	call                 attribution.Call
	action               Action
}

func kindOf(d *Denial) kind { return kind{d.Program, d.Compartment, d.Call, d.Action} }

// NewLog returns a log that hands texts of several lines to text and writes one JSON object a line to lines. Both may be
// nil.
func NewLog(text func(string), lines io.Writer) *Log {
	l := &Log{text: text, told: map[kind]uint64{}, builder: attribution.NewBuilder()}
	if lines != nil {
		l.lines = json.NewEncoder(lines)
		l.lines.SetEscapeHTML(false)
	}
	return l
}

// Add takes one denial.
func (l *Log) Add(d *Denial) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count++
	l.record(d)
	if l.lines != nil {
		if err := l.lines.Encode(d.line()); err != nil && l.err == nil {
			l.err = fmt.Errorf("write the denials: %w", err)
		}
	}
	k := kindOf(d)
	if _, told := l.told[k]; !told {
		l.order = append(l.order, k)
		if l.text != nil {
			l.text(d.Text())
		}
	}
	l.told[k]++
}

// Close tells how often what was told once has happened. It returns the number of denials and what kept them from being
// written.
func (l *Log) Close() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text != nil {
		for _, k := range l.order {
			if n := l.told[k]; n > 1 {
				l.text(fmt.Sprintf("%s called %s %d times: all %s", k.compartment, k.call.Name, n, k.action))
			}
		}
	}
	return l.count, l.err
}

// Document returns what was denied as an attribution document: added to the one that the policy was derived from, it
// allows all of it.
func (l *Log) Document() *attribution.Document {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.builder.Document()
}

func (l *Log) record(d *Denial) {
	p := l.builder.Program(d.Program, d.ProgramBuildID, d.Arch)
	sites := make([]attribution.Site, len(d.Stack))
	for i, f := range d.Stack {
		object := p.Object(f.Path, f.BuildID, "", f.Conduit)
		sites[i] = attribution.Site{Object: object, Function: f.Function, Offset: f.Offset}
	}
	origin, via, chain := p.Charge(sites, d.Whole)
	if !d.Whole {
		p.BrokenStacks++
	}
	o := attribution.Observation{
		Call: d.Call, Origin: origin, Via: via, Count: 1, Evidence: attribution.Traced, Stack: sites,
	}
	if d.Whole {
		o.Chain = chain
	}
	p.Add(o)
}
