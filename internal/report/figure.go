package report

import (
	"bufio"
	"cmp"
	"fmt"
	"html"
	"io"
	"os"
	"path/filepath"
	"slices"

	"bulkhead/internal/attribution"
	"bulkhead/internal/filecache"
	"bulkhead/internal/stats"
)

// Figures are drawn as SVG 1.1 with fonts that every viewer has, on white, in colours that colour-blind people can tell
// apart (Okabe and Ito's).
const (
	ink         = "#1b1f24"
	faintInk    = "#6b7280"
	rule        = "#d8dce2"
	criticalInk = "#d55e00"
	disruptInk  = "#e8a33d"
	harmlessInk = "#8fb8d8"
	charWidth   = 6.6 // of 12 px sans-serif, on average
	maxRows     = 24  // compartments in a figure
)

var dangerInk = [3]string{harmlessInk, disruptInk, criticalInk}

// svg writes one figure.
type svg struct{ *bufio.Writer }

func (s svg) text(x, y float64, anchor, fill, text string) {
	fmt.Fprintf(s, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s">%s</text>`+"\n", x, y, anchor, fill, html.EscapeString(printable(text)))
}

func (s svg) title(text, explanation string) {
	fmt.Fprintf(s, `<text x="16" y="26" font-size="15" font-weight="600" fill="%s">%s</text>`+"\n", ink, html.EscapeString(printable(text)))
	s.text(16, 45, "start", faintInk, explanation)
}

func (s svg) rect(x, y, w, h float64, fill, tip string) {
	fmt.Fprintf(s, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"><title>%s</title></rect>`+"\n",
		x, y, w, h, fill, html.EscapeString(printable(tip)))
}

func (s svg) line(x1, y1, x2, y2 float64, stroke, dash string) {
	fmt.Fprintf(s, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-dasharray="%s"/>`+"\n", x1, y1, x2, y2, stroke, dash)
}

// drawSVG writes the frame of a figure around what draw draws.
func drawSVG(w io.Writer, width, height float64, draw func(svg)) error {
	s := svg{bufio.NewWriter(w)}
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" `+
		`font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif" font-size="12">`+"\n", width, height, width, height)
	fmt.Fprintf(s, `<rect width="%.0f" height="%.0f" fill="#ffffff"/>`+"\n", width, height)
	draw(s)
	fmt.Fprint(s, "</svg>\n")
	return s.Flush()
}

// WritePrivilegeFigure draws the privilege of each compartment of a program, by danger class, below that of one filter.
func WritePrivilegeFigure(w io.Writer, p *stats.Program) error {
	const bar, gap, top, plot = 18.0, 8.0, 84.0, 480.0
	shown := p.Compartments[:min(maxRows, len(p.Compartments))]
	label := labelWidth(append(namesOf(shown), "one filter for all"))
	left := 16 + label + 10
	height := top + float64(len(shown)+1)*(bar+gap) + gap + 24
	scale := plot / float64(max(1, p.Union.Privilege))
	return drawSVG(w, left+plot+60, height, func(s svg) {
		s.title(attribution.ObjectName(p.Path)+": privilege of each compartment",
			fmt.Sprintf("Distinct system calls weighed by danger class. Divided, no code has more than %d of %d: %s less.",
				p.Privilege, p.Union.Privilege, percent(p.Reduction)))
		s.legend(left, 66)
		y := top
		row := func(name string, set *stats.Set, fill string) {
			s.text(left-10, y+bar-5, "end", fill, short(name))
			x := left
			for class := 3; class >= 1; class-- {
				if n := set.ByDanger[class-1]; n > 0 {
					width := float64(n*class) * scale
					s.rect(x, y, width, bar, dangerInk[class-1], fmt.Sprintf("%s: %d calls of danger %d", name, n, class))
					x += width
				}
			}
			s.text(x+6, y+bar-5, "start", fill, fmt.Sprint(set.Privilege))
			y += bar + gap
		}
		row("one filter for all", &p.Union, ink)
		s.line(16, y-gap/2, left+plot, y-gap/2, rule, "")
		y += gap
		for i := range shown {
			row(shown[i].Name, &shown[i].Set, ink)
		}
		if n := len(p.Compartments) - len(shown); n > 0 {
			s.text(left, y+12, "start", faintInk, fmt.Sprintf("and %d more with less", n))
		}
		x := left + float64(p.Privilege)*scale
		s.line(x, top-4, x, y, criticalInk, "3 3")
	})
}

func (s svg) legend(x, y float64) {
	for class := 3; class >= 1; class-- {
		s.rect(x, y-10, 11, 11, dangerInk[class-1], "")
		text := [...]string{"1 harmless", "2 disruptive", "3 critical"}[class-1]
		s.text(x+16, y, "start", faintInk, text)
		x += 34 + charWidth*float64(len(text))
	}
}

// WriteOverlapFigure draws how many calls each two compartments have in common, the darker the greater their overlap.
func WriteOverlapFigure(w io.Writer, p *stats.Program) error {
	const cell, top = 34.0, 66.0
	shown := slices.Clone(p.Compartments[:min(maxRows, len(p.Compartments))])
	slices.SortFunc(shown, func(a, b stats.Compartment) int {
		return cmp.Or(len(b.Syscalls)-len(a.Syscalls), cmp.Compare(a.Name, b.Name))
	})
	n := float64(len(shown))
	label := labelWidth(namesOf(shown))
	left := 16 + label + 10
	pairs := make(map[[2]string]*stats.Pair)
	for i := range p.Pairs {
		pair := &p.Pairs[i]
		pairs[[2]string{pair.A, pair.B}], pairs[[2]string{pair.B, pair.A}] = pair, pair
	}
	title := attribution.ObjectName(p.Path) + ": system calls in common"
	explanation := fmt.Sprintf("On the diagonal, a compartment's own number. %s of the privilege is in calls of one compartment only.",
		percent(p.Separation()))
	width := max(left+n*cell+16, 32+6.2*float64(len(explanation)))
	return drawSVG(w, width, top+n*cell+label*0.72+30, func(s svg) {
		s.title(title, explanation)
		for i := range shown {
			y := top + float64(i)*cell
			s.text(left-10, y+cell/2+4, "end", ink, short(shown[i].Name))
			for j := range shown[:i+1] {
				common, overlap := len(shown[i].Syscalls), 1.0
				if i != j {
					common, overlap = 0, 0
					if pair := pairs[[2]string{shown[i].Name, shown[j].Name}]; pair != nil {
						common, overlap = len(pair.Common), pair.Overlap
					}
				}
				s.cell(left+float64(j)*cell, y, cell, common, overlap, i == j, shown[i].Name+" and "+shown[j].Name)
			}
			x := left + float64(i)*cell + cell/2
			fmt.Fprintf(s, `<text x="%.1f" y="%.1f" transform="rotate(-45 %.1f %.1f)" text-anchor="end" fill="%s">%s</text>`+"\n",
				x+4, top+n*cell+14, x+4, top+n*cell+14, ink, html.EscapeString(short(printable(shown[i].Name))))
		}
	})
}

func (s svg) cell(x, y, size float64, common int, overlap float64, diagonal bool, tip string) {
	fill, fg := shade(overlap), ink
	if overlap > 0.6 {
		fg = "#ffffff"
	}
	if diagonal {
		fill, fg = "#eef0f3", faintInk
	}
	s.rect(x+1, y+1, size-2, size-2, fill, fmt.Sprintf("%s: %d in common, %s", tip, common, percent(overlap)))
	if common > 0 {
		s.text(x+size/2, y+size/2+4, "middle", fg, fmt.Sprint(common))
	}
}

// shade goes from near white to dark blue.
func shade(share float64) string {
	mix := func(from, to int) int { return from + int(share*float64(to-from)) }
	return fmt.Sprintf("#%02x%02x%02x", mix(0xf4, 0x08), mix(0xf7, 0x45), mix(0xfa, 0x7f))
}

// WriteReductionFigure draws how much privilege dividing takes away from each program, the most first.
func WriteReductionFigure(w io.Writer, programs []stats.Program) error {
	const bar, gap, top, plot = 18.0, 8.0, 66.0, 420.0
	shown := slices.Clone(programs)
	slices.SortStableFunc(shown, func(a, b stats.Program) int { return cmp.Compare(b.Reduction, a.Reduction) })
	names := make([]string, len(shown))
	for i := range shown {
		names[i] = attribution.ObjectName(shown[i].Path)
	}
	left := 16 + labelWidth(names) + 10
	return drawSVG(w, left+plot+170, top+float64(len(shown))*(bar+gap)+16, func(s svg) {
		s.title("Privilege that dividing takes away", "1 − the most privileged compartment ÷ one filter for the whole program")
		for i := range shown {
			p := &shown[i]
			y := top + float64(i)*(bar+gap)
			s.text(left-10, y+bar-5, "end", ink, short(names[i]))
			s.rect(left, y, plot, bar, "#eef0f3", "")
			s.rect(left, y, plot*p.Reduction, bar, "#08457f", fmt.Sprintf("%s: %s", p.Path, percent(p.Reduction)))
			s.text(left+plot+8, y+bar-5, "start", ink, fmt.Sprintf("%s (%d of %d left)", percent(p.Reduction), p.Privilege, p.Union.Privilege))
		}
	})
}

func namesOf(compartments []stats.Compartment) []string {
	names := make([]string, len(compartments))
	for i := range compartments {
		names[i] = compartments[i].Name
	}
	return names
}

func labelWidth(names []string) float64 {
	width := 0.0
	for _, name := range names {
		width = max(width, charWidth*float64(len([]rune(short(name)))))
	}
	return width
}

func short(name string) string { return cut(name, 34) }

// WriteFigures draws all figures of the programs into a folder, which is made if need be: privilege-NAME.svg and
// overlap-NAME.svg for each program, and reduction.svg for all. Programs with the same file name are numbered.
func WriteFigures(dir string, programs []stats.Program) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	write := func(name string, draw func(io.Writer) error) error {
		return filecache.Replace(filepath.Join(dir, name+".svg"), draw)
	}
	taken := make(map[string]int)
	for i := range programs {
		p := &programs[i]
		if len(p.Compartments) == 0 {
			continue
		}
		name := attribution.ObjectName(p.Path)
		taken[name]++
		if n := taken[name]; n > 1 {
			name = fmt.Sprintf("%s-%d", name, n)
		}
		if err := write("privilege-"+name, func(w io.Writer) error { return WritePrivilegeFigure(w, p) }); err != nil {
			return err
		}
		if err := write("overlap-"+name, func(w io.Writer) error { return WriteOverlapFigure(w, p) }); err != nil {
			return err
		}
	}
	return write("reduction", func(w io.Writer) error { return WriteReductionFigure(w, programs) })
}
