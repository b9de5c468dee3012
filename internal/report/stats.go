package report

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"bulkhead/internal/stats"
)

const maxShared = 8 // calls that keep compartments together, named in the table

// WriteStats writes the measures of programs as tables, and a last one that compares the programs.
func WriteStats(w io.Writer, programs []stats.Program, o Options) error {
	t := &text{Writer: bufio.NewWriter(w), styles: newStyles(o.Colour), width: o.Width}
	if t.width <= 0 {
		t.width = defaultWidth
	}
	for i := range programs {
		t.measures(&programs[i], o.Wide)
	}
	if len(programs) > 1 {
		t.comparison(programs)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

func (t *text) measures(p *stats.Program, wide bool) {
	fmt.Fprint(t, t.title(printable(p.Path)), "  ", string(p.Arch), "\n")
	if len(p.Compartments) == 0 {
		fmt.Fprint(t, "no system calls\n\n")
		return
	}
	fmt.Fprintf(t, "one filter: %d kinds, privilege %d; the most privileged compartment, %s: %d; reduction %s\n",
		len(p.Union.Syscalls), p.Union.Privilege, printable(p.Compartments[0].Name), p.Privilege, percent(p.Reduction))
	columns := []column{{head: "compartment"}, {head: "kinds", right: true}, {head: "own", right: true}, {head: "critical", right: true},
		{head: "calls", right: true}, {head: "privilege", right: true}, {head: "of one filter", right: true}}
	cells := make([][]string, len(p.Compartments))
	last := make([]string, len(p.Compartments))
	marked := false
	for i, c := range p.Compartments {
		name := cut(printable(c.Name), max(t.width/3, minName))
		if c.Conduit {
			name, marked = name+" *", true
		}
		cells[i] = []string{name, strconv.Itoa(len(c.Syscalls)), strconv.Itoa(len(c.Own)), strconv.Itoa(c.ByDanger[2]),
			count(c.Calls), strconv.Itoa(c.Privilege), percent(float64(c.Privilege) / float64(p.Union.Privilege))}
		last[i] = nearest(p, c.Name)
		if wide {
			last[i] = printable(strings.Join(c.Syscalls, " "))
		}
	}
	t.lines(columns, cells, map[bool]string{false: "overlaps most with", true: "system calls"}[wide], last)
	if marked && !t.explained {
		t.explained = true
		t.paragraph("* ", "the loader and the C library for themselves: start-up, shutdown, their own threads", t.quiet)
	}
	t.shared(p)
	if !p.Complete {
		fmt.Fprintln(t, t.bad("incomplete: the document lists what was lost, which may add calls"))
	}
	fmt.Fprintln(t)
}

// lines writes a table whose last column has no width.
func (t *text) lines(columns []column, cells [][]string, head string, last []string) {
	lay(columns, cells)
	fmt.Fprintln(t, t.head(joinCells(columns, heads(columns))+"  "+head))
	for i, r := range cells {
		line := joinCells(columns, r)
		fmt.Fprintln(t, t.name(line[:len(r[0])])+strings.TrimRight(line[len(r[0]):]+"  "+last[i], " "))
	}
}

func nearest(p *stats.Program, compartment string) string {
	pair := p.Closest(compartment)
	if pair == nil {
		return "nothing"
	}
	return fmt.Sprintf("%s: %d, %s", cut(printable(pair.Other(compartment)), 20), len(pair.Common), percent(pair.Overlap))
}

// shared says which calls keep the compartments together, the most costly first.
func (t *text) shared(p *stats.Program) {
	if len(p.Shared) == 0 {
		return
	}
	var items []string
	for _, s := range p.Shared[:min(maxShared, len(p.Shared))] {
		items = append(items, fmt.Sprintf("%s (danger %d, in %d)", printable(s.Syscall), s.Weight, len(s.Compartments)))
	}
	words := strings.Join(items, ", ")
	if n := len(p.Shared) - len(items); n > 0 {
		words += fmt.Sprintf(", and %d more", n)
	}
	t.paragraph("in several: ", words, t.quiet)
}

// comparison lists programs by reduction: what separates easily comes first.
func (t *text) comparison(programs []stats.Program) {
	order := make([]*stats.Program, len(programs))
	for i := range programs {
		order[i] = &programs[i]
	}
	slices.SortStableFunc(order, func(a, b *stats.Program) int { return cmp.Compare(b.Reduction, a.Reduction) })
	columns := []column{{head: "program"}, {head: "compartments", right: true}, {head: "kinds", right: true}, {head: "one filter", right: true},
		{head: "divided", right: true}, {head: "reduction", right: true}, {head: "in one only", right: true}}
	cells := make([][]string, len(order))
	last := make([]string, len(order))
	for i, p := range order {
		cells[i] = []string{cut(printable(p.Path), max(t.width/3, minName)), strconv.Itoa(len(p.Compartments)),
			strconv.Itoa(len(p.Union.Syscalls)), strconv.Itoa(p.Union.Privilege), strconv.Itoa(p.Privilege),
			percent(p.Reduction), percent(p.Separation())}
		var names []string
		for _, s := range p.Shared[:min(3, len(p.Shared))] {
			names = append(names, printable(s.Syscall))
		}
		last[i] = strings.Join(names, ", ")
	}
	t.lines(columns, cells, "kept together most by", last)
}
