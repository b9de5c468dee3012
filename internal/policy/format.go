package policy

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

const (
	maxWidth = 120 // of a line, in bytes
	indent   = "  "
)

// Format lays out a policy file: an empty line before each table, equals signs
// aligned, lists on one line or filled, or one entry a line where entries have
// comments; lists of system calls without comments sorted. All comments stay.
// The result means the same, and formatting it again changes nothing. The error
// is as of [Parse].
func Format(name string, data []byte) ([]byte, error) {
	if _, err := Parse(name, data); err != nil {
		return nil, err
	}
	return layOut(data, nil), nil
}

// layOut formats a file that has been parsed without errors, with additions.
func layOut(data []byte, add *additions) []byte {
	f := formatter{source: bytes.Split(data, []byte("\n")), add: add}
	f.policy = new(Policy)
	f.read(data)
	for f.NextExpression() {
		f.expression(f.Expression())
	}
	f.flush()
	f.add.programsEnd(&f.out)
	return f.out.Bytes()
}

// formatter collects the lines of a table, which are aligned together.
type formatter struct {
	parser
	source  [][]byte
	add     *additions // nil for none
	out     bytes.Buffer
	above   []string // comments that stand above what comes next
	blank   bool     // and an empty line above those
	entries []entry
}

// entry is a line of a table: a key with its value, or comments.
type entry struct {
	blank     bool // an empty line comes before it
	comments  []string
	key, note string
	value     []string // lines
}

func (f *formatter) expression(e *unstable.Node) {
	at := f.position(e)
	if e.Kind != unstable.Comment {
		_, at = f.keyOf(e)
	}
	blank := f.blankBefore(at.line)
	if blank && f.above != nil { // they stand for themselves
		f.entries = append(f.entries, f.take())
	}
	switch e.Kind {
	case unstable.Comment:
		f.blank = f.blank || blank && f.above == nil
		f.above = append(f.above, string(e.Data))
	case unstable.KeyValue:
		f.blank = f.blank || blank
		en := f.take()
		key, _ := f.keyOf(e)
		en.key, en.note, en.value = key, noteOf(e), f.value(key, e.Value())
		f.entries = append(f.entries, en)
	case unstable.Table, unstable.ArrayTable:
		above := f.take()
		f.flush()
		name, _ := f.keyOf(e)
		f.add.header(name, &f.out)
		f.header(e, above.comments)
	}
}

// take returns an entry with the comments that stand above it.
func (f *formatter) take() entry {
	e := entry{blank: f.blank && len(f.entries) > 0, comments: f.above}
	f.above, f.blank = nil, false
	return e
}

// blankBefore reports whether an empty line stands above a line of the source.
func (f *formatter) blankBefore(line int) bool {
	return line >= 2 && line-2 < len(f.source) && len(bytes.TrimSpace(f.source[line-2])) == 0
}

func (f *formatter) header(e *unstable.Node, above []string) {
	name, _ := f.keyOf(e)
	if f.out.Len() > 0 {
		f.out.WriteByte('\n')
	}
	f.comments(above)
	if e.Kind == unstable.ArrayTable {
		fmt.Fprintf(&f.out, "[[%s]]", name)
	} else {
		fmt.Fprintf(&f.out, "[%s]", name)
	}
	f.endLine(noteOf(e))
}

func (f *formatter) comments(lines []string) {
	for _, l := range lines {
		f.out.WriteString(strings.TrimRight(l, " \t\r") + "\n")
	}
}

func (f *formatter) endLine(note string) {
	if note != "" {
		f.out.WriteString(" " + strings.TrimRight(note, " \t\r"))
	}
	f.out.WriteByte('\n')
}

// flush writes the lines collected.
func (f *formatter) flush() {
	if f.above != nil {
		f.entries = append(f.entries, f.take())
	}
	width := 0
	for _, e := range f.entries {
		width = max(width, len(e.key))
	}
	for _, e := range f.entries {
		if e.blank && f.out.Len() > 0 {
			f.out.WriteByte('\n')
		}
		f.comments(e.comments)
		if e.key == "" {
			continue
		}
		fmt.Fprintf(&f.out, "%-*s = %s", width, e.key, strings.Join(e.value, "\n"))
		f.endLine(e.note)
	}
	f.entries = nil
}

// value returns the lines of a value, without the comment behind it.
func (f *formatter) value(key string, v *unstable.Node) []string {
	if v.Kind != unstable.Array {
		return []string{quote(string(v.Data))}
	}
	items := f.items(v)
	if key == "allow" {
		items = f.add.merge(items)
	}
	words := make([]string, 0, len(items))
	plain := true
	for _, i := range items {
		plain = plain && i.word != "" && i.heading == nil && i.note == ""
		words = append(words, i.word)
	}
	if !plain {
		return commented(items)
	}
	if key == "allow" {
		slices.Sort(words)
	}
	if line := "[" + strings.Join(words, ", ") + "]"; len(key)+len(" = ")+len(line) <= maxWidth {
		return []string{line}
	}
	return slices.Concat([]string{"["}, fill(words), []string{"]"})
}

// item is an entry of a list as it is written, with its comments; the last may
// have comments only.
type item struct {
	heading    []string
	word, note string
}

func (f *formatter) items(v *unstable.Node) []item {
	var out []item
	for _, e := range f.elements(v, position{}) {
		i := item{heading: e.heading, note: e.note}
		if e.value != nil {
			i.word = quote(string(e.value.Data))
		}
		out = append(out, i)
	}
	return out
}

// commented lays out a list with comments: those above an entry begin a run of
// entries, which stand one a line if one of them has a comment behind it.
func commented(items []item) []string {
	out := []string{"["}
	for len(items) > 0 {
		for _, c := range items[0].heading {
			out = append(out, indent+strings.TrimRight(c, " \t\r"))
		}
		run := runOf(items)
		items = items[len(run):]
		out = append(out, layRun(run)...)
	}
	return append(out, "]")
}

// runOf returns the first entries up to the next that has comments above it.
func runOf(items []item) []item {
	n := 1
	for n < len(items) && items[n].heading == nil {
		n++
	}
	return items[:n]
}

func layRun(run []item) (out []string) {
	var words []string
	width, notes := 0, false
	for _, i := range run {
		if i.word != "" {
			words = append(words, i.word)
			width = max(width, len(i.word)+len(","))
			notes = notes || i.note != ""
		}
	}
	if !notes {
		return fill(words)
	}
	for i, w := range words {
		line := indent + w + ","
		if note := run[i].note; note != "" {
			line = fmt.Sprintf("%s%-*s %s", indent, width, w+",", strings.TrimRight(note, " \t\r"))
		}
		out = append(out, line)
	}
	return out
}

// fill puts words on lines of the width allowed, each with a comma behind it.
func fill(words []string) (out []string) {
	line := ""
	for _, w := range words {
		if line != "" && len(line)+len(" ")+len(w)+len(",") > maxWidth {
			out = append(out, line)
			line = ""
		}
		if line == "" {
			line = indent + w + ","
		} else {
			line += " " + w + ","
		}
	}
	if line != "" {
		out = append(out, line)
	}
	return out
}

// quote writes a TOML string: literal if that saves escapes.
func quote(s string) string {
	plain := !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
	if plain && !strings.ContainsAny(s, `"\`) {
		return `"` + s + `"`
	}
	if plain && !strings.Contains(s, "'") {
		return "'" + s + "'"
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	return `"` + b.String() + `"`
}
