package report

import (
	"cmp"
	"io"
	"slices"
	"strings"

	"bulkhead/internal/attribution"
)

// Format is an output format.
type Format string

// The formats.
const (
	Table   Format = "table"
	JSON    Format = "json"
	CSV     Format = "csv"
	Parquet Format = "parquet"
	HTML    Format = "html"
)

// Formats are all formats, in the order of the help texts.
var Formats = []Format{Table, JSON, CSV, Parquet, HTML}

// Enumerate lists formats for a person: "table, json or csv".
func Enumerate(formats []Format) string {
	words := make([]string, len(formats))
	for i, f := range formats {
		words[i] = string(f)
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// Options are for tables only.
type Options struct {
	Width  int  // of the terminal in columns; 0 for 120
	Wide   bool // one line for each system call
	Colour bool
}

// Write writes the document in the format given.
func Write(w io.Writer, d *attribution.Document, f Format, o Options) error {
	switch f {
	case JSON:
		return d.Write(w)
	case CSV, Parquet:
		return WriteRows(w, CallRows(d), f)
	case HTML:
		return writePage(w, d)
	default:
		return writeText(w, d, o)
	}
}

// program is the model of one program's report.
type program struct {
	*attribution.Program
	calls        uint64
	compartments []compartment
}

// compartment has its system calls by count, the most frequent first.
type compartment struct {
	name    string
	conduit bool // made without a caller: start-up, threads of the C library
	calls   uint64
	share   float64 // of the program's calls, 0 to 1
	rows    []row
}

// row is one system call of one compartment.
type row struct {
	attribution.Syscall
	share float64 // of the program's calls, 0 to 1
}

// modelOf sorts a program for reading: what is called most comes first.
func modelOf(p *attribution.Program) program {
	m := program{Program: p, calls: p.Calls()}
	conduit := make(map[string]bool)
	for _, o := range p.Objects {
		if o.Conduit {
			conduit[o.Compartment] = true
		}
		for _, part := range o.Parts {
			if part.Conduit {
				conduit[part.Name] = true
			}
		}
	}
	for i := range p.Compartments {
		c := &p.Compartments[i]
		n := c.Calls()
		out := compartment{name: c.Name, conduit: conduit[c.Name], calls: n, share: share(n, m.calls)}
		for _, s := range c.Syscalls {
			out.rows = append(out.rows, row{s, share(s.Count, m.calls)})
		}
		slices.SortStableFunc(out.rows, func(a, b row) int {
			return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Name, b.Name), cmp.Compare(a.ABI, b.ABI))
		})
		m.compartments = append(m.compartments, out)
	}
	slices.SortStableFunc(m.compartments, func(a, b compartment) int {
		return cmp.Or(cmp.Compare(b.calls, a.calls), cmp.Compare(len(b.rows), len(a.rows)), strings.Compare(a.name, b.name))
	})
	return m
}

func share(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}
