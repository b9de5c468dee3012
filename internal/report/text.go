package report

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"

	"charm.land/lipgloss/v2"

	"bulkhead/internal/attribution"
)

const (
	defaultWidth = 120
	minName      = 16 // columns that a compartment's name gets on a narrow terminal
	minFlexible  = 24 // columns that the last column gets there
	maxLines     = 3  // of a compartment's most frequent calls
)

// styles render the parts of a report; without colours they leave text alone.
type styles struct {
	title, head, name, quiet, good, bad func(...string) string
}

func newStyles(colour bool) styles {
	if !colour {
		plain := func(s ...string) string { return strings.Join(s, " ") }
		return styles{plain, plain, plain, plain, plain, plain}
	}
	style := lipgloss.NewStyle
	return styles{
		title: style().Bold(true).Render,
		head:  style().Faint(true).Render,
		name:  style().Foreground(lipgloss.Cyan).Render,
		quiet: style().Faint(true).Render,
		good:  style().Foreground(lipgloss.Green).Render,
		bad:   style().Foreground(lipgloss.Yellow).Render,
	}
}

// text writes one report.
type text struct {
	*bufio.Writer
	styles
	width int
	// explained says that the mark of conduits has been explained.
	explained bool
}

func writeText(w io.Writer, d *attribution.Document, o Options) error {
	t := &text{Writer: bufio.NewWriter(w), styles: newStyles(o.Colour), width: o.Width}
	if t.width <= 0 {
		t.width = defaultWidth
	}
	var total uint64
	complete := true
	for i := range d.Programs {
		p := modelOf(&d.Programs[i])
		total += p.calls
		complete = complete && p.Complete
		t.header(&p)
		if o.Wide {
			t.wide(&p)
		} else {
			t.summary(&p)
		}
		t.losses(&p)
	}
	if n := len(d.Programs); n != 1 {
		t.total(n, total, complete)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

func (t *text) header(p *program) {
	fmt.Fprint(t, t.title(printable(p.Path)), "  ", string(p.Arch))
	if p.BuildID != "" {
		fmt.Fprint(t, "  build ", printable(p.BuildID[:min(8, len(p.BuildID))]))
	}
	fmt.Fprint(t, "  ", calls(p.calls), "\n")
}

// column is one column of a table: all but the last are as wide as their cells.
type column struct {
	head  string
	right bool
	width int
	// explained says that the mark of conduits has been explained.
	explained bool
}

func (c *column) fit(cell string) { c.width = max(c.width, lipgloss.Width(cell)) }

// pad fills the cell up to the column's width.
func (c *column) pad(cell string) string {
	space := strings.Repeat(" ", max(0, c.width-lipgloss.Width(cell)))
	if c.right {
		return space + cell
	}
	return cell + space
}

// summary writes one entry per compartment: the most frequent calls, on a few
// lines, in what the other columns leave of the width.
func (t *text) summary(p *program) {
	if len(p.compartments) == 0 {
		return
	}
	columns := []column{{head: "compartment"}, {head: "kinds", right: true}, {head: "calls", right: true}, {head: "share", right: true}}
	cells := make([][]string, len(p.compartments))
	marked := false
	for i, c := range p.compartments {
		name := cut(printable(c.name), max(t.width/3, minName))
		if c.conduit {
			name += " *"
			marked = true
		}
		cells[i] = []string{name, strconv.Itoa(len(c.rows)), count(c.calls), portion(c.calls, c.share)}
	}
	used := lay(columns, cells)
	rest := max(t.width-used, minFlexible)
	fmt.Fprintln(t, t.head(joinCells(columns, heads(columns))+"  system calls"))
	for i, c := range p.compartments {
		lines := t.frequent(p, c.rows, rest)
		line := joinCells(columns, cells[i])
		fmt.Fprint(t, t.name(line[:len(cells[i][0])]), line[len(cells[i][0]):], "  ", lines[0], "\n")
		for _, l := range lines[1:] {
			fmt.Fprint(t, strings.Repeat(" ", used), l, "\n")
		}
	}
	if marked && !t.explained {
		t.explained = true
		t.paragraph("* ", "the loader, the C library and Go for themselves: start-up, shutdown, their own threads", t.quiet)
	}
}

// lay fits the columns to their cells and returns how much they take.
func lay(columns []column, cells [][]string) (used int) {
	for i := range columns {
		columns[i].fit(columns[i].head)
		for _, r := range cells {
			columns[i].fit(r[i])
		}
		used += columns[i].width + 2
	}
	return used
}

func heads(columns []column) []string {
	out := make([]string, len(columns))
	for i, c := range columns {
		out[i] = c.head
	}
	return out
}

func joinCells(columns []column, cells []string) string {
	padded := make([]string, len(cells))
	for i := range cells {
		padded[i] = columns[i].pad(cells[i])
	}
	return strings.Join(padded, "  ")
}

// frequent lists calls, the most frequent first, on at most maxLines lines of
// the width given; the last says how many are not shown.
func (t *text) frequent(p *program, rows []row, width int) []string {
	var lines []string
	for len(rows) > 0 && len(lines) < maxLines {
		line, n := t.fill(p, rows, width, len(lines) == maxLines-1)
		lines, rows = append(lines, line), rows[n:]
	}
	return lines
}

// fill puts as many calls on a line as fit, at least one, and returns their
// number. On the last line there is space for the number of the others.
func (t *text) fill(p *program, rows []row, width int, last bool) (string, int) {
	line := ""
	for i, r := range rows {
		space, comma := width, ""
		if i < len(rows)-1 {
			comma = ","
			if last {
				space -= len(more(len(rows) - i - 1))
			}
		}
		item := described(p, r, space-len(comma)) + comma
		if i == 0 {
			line = item
			continue
		}
		if lipgloss.Width(line)+1+lipgloss.Width(item) > space {
			if last {
				line += t.quiet(more(len(rows) - i))
			}
			return line, i
		}
		line += " " + item
	}
	return line, len(rows)
}

func more(n int) string { return fmt.Sprintf(" +%d more", n) }

// described is a call with its count and its via where that says more than the
// call's name: "openat 12 via fopen". What does not fit into the width goes.
func described(p *program, r row, width int) string {
	s := printable(r.Label(p.Arch))
	if r.Count > 0 {
		s += " " + thousands(r.Count)
	}
	for few := 2; few > 0; few-- {
		v := telling(r.Name, r.Via, few)
		if v != "" && lipgloss.Width(s)+len(" via ")+lipgloss.Width(v) <= width {
			return s + " via " + v
		}
	}
	return cut(s, width)
}

// telling picks the vias that are not the call's own wrapper, and names a few.
func telling(name string, via []string, few int) string {
	var out []string
	for _, v := range via {
		if strings.TrimPrefix(strings.TrimLeft(v, "_"), "libc_") != name {
			out = append(out, printable(v))
		}
	}
	if len(out) > few {
		return fmt.Sprintf("%s/+%d", strings.Join(out[:few], "/"), len(out)-few)
	}
	return strings.Join(out, "/")
}

// wide writes one line per system call.
func (t *text) wide(p *program) {
	columns := []column{{head: "compartment"}, {head: "system call"}, {head: "calls", right: true}, {head: "share", right: true}, {head: "evidence"}}
	var cells [][]string
	var vias []string
	for _, c := range p.compartments {
		for _, r := range c.rows {
			cells = append(cells, []string{printable(c.name), printable(r.Label(p.Arch)), count(r.Count), portion(r.Count, r.share), join(r.Evidence, "+")})
			vias = append(vias, printable(strings.Join(r.Via, ", ")))
		}
	}
	if len(cells) == 0 {
		return
	}
	lay(columns, cells)
	fmt.Fprintln(t, t.head(joinCells(columns, heads(columns))+"  via"))
	for i, r := range cells {
		line := joinCells(columns, r)
		fmt.Fprintln(t, t.name(line[:len(r[0])])+strings.TrimRight(line[len(r[0]):]+"  "+vias[i], " "))
	}
}

func (t *text) losses(p *program) {
	lost := losses(p)
	if len(lost) == 0 {
		fmt.Fprintln(t, t.good("complete: no losses"))
	}
	for _, l := range lost {
		t.paragraph("incomplete: ", printable(l), t.bad)
	}
	fmt.Fprintln(t)
}

func (t *text) total(programs int, n uint64, complete bool) {
	line := fmt.Sprintf("%s, %s, ", plural(uint64(programs), "program"), calls(n))
	if complete {
		fmt.Fprintln(t, t.good(line+"complete: no losses"))
		return
	}
	fmt.Fprintln(t, t.bad(line+"incomplete: see the programs' last lines"))
}

// paragraph writes words on lines of the width, indented below the lead.
func (t *text) paragraph(lead, words string, style func(...string) string) {
	line, indent := lead, strings.Repeat(" ", len(lead))
	for _, w := range strings.Fields(words) {
		if lipgloss.Width(line)+lipgloss.Width(w) > t.width && line != indent && line != lead {
			fmt.Fprintln(t, style(strings.TrimRight(line, " ")))
			line = indent
		}
		line += w + " "
	}
	fmt.Fprintln(t, style(strings.TrimRight(line, " ")))
}

// count shows a number of calls; where none was seen the evidence is static.
func count(n uint64) string {
	if n == 0 {
		return "-"
	}
	return thousands(n)
}

func portion(n uint64, share float64) string {
	if n == 0 {
		return "-"
	}
	return percent(share)
}

// percent does not round something to nothing, nor almost all to all.
func percent(share float64) string {
	switch p := 100 * share; {
	case p > 0 && p < 0.05:
		return "<0.1%"
	case p < 100 && p >= 99.95:
		return ">99.9%"
	default:
		return strconv.FormatFloat(p, 'f', 1, 64) + "%"
	}
}

func thousands(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// printable replaces what could steer a terminal: names come from files that
// may be hostile.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// cut shortens text to a width; its middle goes, because the ends of names
// tell more.
func cut(s string, width int) string {
	if lipgloss.Width(s) <= width {
		return s
	}
	r := []rune(s)
	head := (width - 1) / 2
	return string(r[:head]) + "…" + string(r[len(r)-(width-1-head):])
}

func join(kinds []attribution.Evidence, separator string) string {
	words := make([]string, len(kinds))
	for i, k := range kinds {
		words[i] = string(k)
	}
	return strings.Join(words, separator)
}
