package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

// Error is a mistake in a policy file.
type Error struct {
	File         string
	Line, Column int // from 1; 0 where the file lacks something
	Message      string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// maxErrors bounds how many mistakes one error lists.
const maxErrors = 10

// Parse parses and checks a policy file; name is the file's in messages. The
// error joins one [Error] for each mistake, in the order of the file.
func Parse(name string, data []byte) (*Policy, error) {
	p := &parser{policy: &Policy{File: name, Check: Origin, OnViolation: Deny, OnExec: DenyExec}}
	if err := p.syntax(data); err != nil {
		return nil, err
	}
	p.expressions(data)
	if len(p.errors) == 0 {
		p.check()
	}
	if len(p.errors) > 0 {
		return nil, p.joined()
	}
	return p.policy, nil
}

// parser walks the expressions of a file; section is the table that it is in.
type parser struct {
	unstable.Parser
	policy  *Policy
	section string
	schema  bool
	lines   []int // offsets at which lines begin
	errors  []*Error
}

type position struct{ line, column int }

// key is a key that a table may have, and what reads its value.
type key struct {
	name string
	read func(p *parser, value *unstable.Node, at position)
}

// tables has the keys of each table, in the order in which they are written.
var tables = map[string][]key{
	"": {
		{"schema", (*parser).readSchema},
		{"check", func(p *parser, v *unstable.Node, at position) { oneOf(p, v, at, &p.policy.Check, Origin, Chain) }},
		{"on-violation", func(p *parser, v *unstable.Node, at position) {
			oneOf(p, v, at, &p.policy.OnViolation, Deny, Kill, Audit)
		}},
		{"on-exec", func(p *parser, v *unstable.Node, at position) {
			oneOf(p, v, at, &p.policy.OnExec, DenyExec, InheritExec)
		}},
		{"conduits", (*parser).conduits},
	},
	"baseline": {
		{"allow", func(p *parser, v *unstable.Node, at position) { p.policy.Baseline = p.list(v, at) }},
	},
	"program": {
		{"path", (*parser).readPath},
		{"arch", (*parser).readArch},
	},
	"program.compartment": {
		{"name", (*parser).readName},
		{"match", func(p *parser, v *unstable.Node, at position) { p.compartment().Match = p.patterns(v, at) }},
		{"symbols", func(p *parser, v *unstable.Node, at position) { p.compartment().Symbols = p.patterns(v, at) }},
		{"modules", func(p *parser, v *unstable.Node, at position) { p.compartment().Modules = p.patterns(v, at) }},
		{"allow", func(p *parser, v *unstable.Node, at position) { p.compartment().Allow = p.list(v, at) }},
	},
}

func (p *parser) fail(at position, format string, args ...any) {
	p.errors = append(p.errors, &Error{p.policy.File, at.line, at.column, fmt.Sprintf(format, args...)})
}

func (p *parser) joined() error {
	slices.SortStableFunc(p.errors, func(a, b *Error) int { return cmp.Compare(a.Line, b.Line) })
	var all []error
	for i, e := range p.errors {
		if i == maxErrors {
			all = append(all, fmt.Errorf("%s: and %d more", p.policy.File, len(p.errors)-i))
			break
		}
		all = append(all, e)
	}
	return errors.Join(all...)
}

// syntax checks what the TOML specification asks, doubled keys among it; what
// comes after walks expressions, which the library does not check.
func (p *parser) syntax(data []byte) error {
	err := toml.Unmarshal(data, new(map[string]any))
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		line, column := decode.Position()
		return &Error{p.policy.File, line, column, strings.TrimPrefix(decode.Error(), "toml: ")}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.policy.File, err)
	}
	return nil
}

func (p *parser) expressions(data []byte) {
	p.read(data)
	known := true                         // whether the table is
	head, comments := true, []string(nil) // of the file
	for p.NextExpression() {
		e := p.Expression()
		head = head && e.Kind == unstable.Comment
		switch e.Kind {
		case unstable.Comment:
			if head {
				comments = append(comments, string(e.Data))
			}
		case unstable.Table, unstable.ArrayTable:
			known = p.enter(e)
		case unstable.KeyValue:
			if known {
				p.keyValue(e)
			}
		}
	}
	p.policy.Head = uncomment(comments...)
	if err := p.Error(); err != nil {
		p.fail(position{}, "%v", err)
	}
}

// keyOf returns the dotted key of a table or value, and where it is.
func (p *parser) keyOf(e *unstable.Node) (string, position) {
	var parts []string
	var at position
	for it := e.Key(); it.Next(); {
		if parts == nil {
			at = p.position(it.Node())
		}
		parts = append(parts, string(it.Node().Data))
	}
	return strings.Join(parts, "."), at
}

// position returns where a node is. Columns count bytes.
func (p *parser) position(n *unstable.Node) position {
	if n.Raw.Length == 0 {
		return position{}
	}
	offset := int(n.Raw.Offset)
	line, _ := slices.BinarySearch(p.lines, offset+1)
	return position{line, offset - p.lines[line-1] + 1}
}

// read starts to parse.
func (p *parser) read(data []byte) {
	p.KeepComments = true
	p.Reset(data)
	p.lines = []int{0}
	for i, c := range data {
		if c == '\n' {
			p.lines = append(p.lines, i+1)
		}
	}
}

// enter opens a table.
func (p *parser) enter(e *unstable.Node) bool {
	name, at := p.keyOf(e)
	p.section = name
	switch name {
	case "baseline":
		if e.Kind != unstable.Table {
			p.fail(at, "write [baseline]: there is one for all programs")
		}
		return true
	case "program", "program.compartment":
		if e.Kind != unstable.ArrayTable {
			p.fail(at, "write [[%s]] with double brackets: there can be several", name)
			return false
		}
		if name == "program.compartment" && len(p.policy.Programs) == 0 {
			p.fail(at, "a compartment comes after the [[program]] that it belongs to")
			return false
		}
		if name == "program" {
			p.policy.Programs = append(p.policy.Programs, Program{Note: uncomment(noteOf(e)), Line: at.line})
		} else {
			program := p.program()
			program.Compartments = append(program.Compartments, Compartment{Note: uncomment(noteOf(e)), Line: at.line})
		}
		return true
	}
	p.fail(at, "unknown table %q%s", name, suggestion(name, []string{"baseline", "program", "program.compartment"}))
	return false
}

// program and compartment return the one that is being read.
func (p *parser) program() *Program { return &p.policy.Programs[len(p.policy.Programs)-1] }
func (p *parser) compartment() *Compartment {
	cs := p.program().Compartments
	return &cs[len(cs)-1]
}

func (p *parser) keyValue(e *unstable.Node) {
	name, at := p.keyOf(e)
	var names []string
	for _, k := range tables[p.section] {
		if k.name == name {
			k.read(p, e.Value(), at)
			return
		}
		names = append(names, k.name)
	}
	where := "[[" + p.section + "]]"
	switch p.section {
	case "":
		where = "the head of the file"
		if head, _, _ := strings.Cut(name, "."); head == "baseline" || head == "program" {
			p.fail(at, "write %s as a table of its own, [baseline] or [[program]], not as %q", head, name)
			return
		}
	case "baseline":
		where = "[baseline]"
	}
	p.fail(at, "unknown key %q in %s%s; there are %s", name, where, suggestion(name, names), strings.Join(names, ", "))
}

func (p *parser) text(v *unstable.Node, at position) (string, position, bool) {
	if v.Kind != unstable.String {
		p.fail(at, "want a string in quotes, not %s", kind(v))
		return "", at, false
	}
	if own := p.position(v); own.line != 0 {
		at = own
	}
	return string(v.Data), at, true
}

func kind(v *unstable.Node) string {
	switch v.Kind {
	case unstable.Array:
		return "a list"
	case unstable.InlineTable:
		return "a table"
	}
	return strings.ToLower(v.Kind.String())
}

func oneOf[T ~string](p *parser, v *unstable.Node, at position, to *T, values ...T) {
	s, at, ok := p.text(v, at)
	if !ok {
		return
	}
	if !slices.Contains(values, T(s)) {
		words := make([]string, len(values))
		for i, v := range values {
			words[i] = string(v)
		}
		p.fail(at, "%q is not one of %s%s", s, strings.Join(words, ", "), suggestion(s, words))
		return
	}
	*to = T(s)
}

func (p *parser) readSchema(v *unstable.Node, at position) {
	s, at, ok := p.text(v, at)
	switch {
	case !ok:
	case s == Schema:
		p.schema = true
		return
	case strings.HasPrefix(s, "bulkhead.policy/"):
		p.fail(at, "schema %q: this bulkhead reads %s only", s, Schema)
	default:
		p.fail(at, "schema %q: not a policy (%s)", s, Schema)
	}
	p.schema = true // has been complained about
}

func (p *parser) readPath(v *unstable.Node, at position) {
	s, at, ok := p.text(v, at)
	program := p.program()
	program.Line = at.line
	switch {
	case !ok:
	case !strings.HasPrefix(s, "/"):
		p.fail(at, "path %q: write the absolute path of the program", s)
	default:
		program.Path = s
	}
}

func (p *parser) readArch(v *unstable.Node, at position) {
	s, at, ok := p.text(v, at)
	if !ok {
		return
	}
	abi, err := syscalls.ParseABI(s)
	if err != nil {
		p.fail(at, "arch: %v", err)
	}
	p.program().ABI = abi
}

func (p *parser) readName(v *unstable.Node, at position) {
	s, at, ok := p.text(v, at)
	if ok && s == "" {
		p.fail(at, "name: empty")
	}
	p.compartment().Name = s
	p.compartment().Line = at.line
}

// uncomment returns the text of comment lines.
func uncomment(lines ...string) string {
	text := make([]string, len(lines))
	for i, l := range lines {
		text[i] = strings.TrimSpace(strings.TrimLeft(l, "#"))
	}
	return strings.Join(text, "\n")
}

// strings calls each with the strings of a list.
func (p *parser) strings(v *unstable.Node, at position, each func(s string, at position)) {
	for _, e := range p.elements(v, at) {
		if e.value == nil {
			continue
		}
		if s, at, ok := p.text(e.value, at); ok {
			each(s, at)
		}
	}
}

// element is a value of a list with its comments: the lines above it and the
// one behind it, each with its #.
type element struct {
	value   *unstable.Node // nil for the comments before the closing bracket
	heading []string
	note    string
}

// noteOf returns the comment behind an expression.
func noteOf(e *unstable.Node) string {
	if n := e.Next(); n != nil && n.Kind == unstable.Comment {
		return string(n.Data)
	}
	return ""
}

// elements returns the values of a list, and the comments that follow them.
func (p *parser) elements(v *unstable.Node, at position) (out []element) {
	if v.Kind != unstable.Array {
		p.fail(at, "want a list of strings in [ ], not %s", kind(v))
		return nil
	}
	var heading []string
	for it := v.Children(); it.Next(); {
		n := it.Node()
		if n.Kind != unstable.Comment {
			out = append(out, element{value: n, heading: heading})
			heading = nil
			continue
		}
		last := len(out) - 1
		if heading == nil && last >= 0 && out[last].note == "" && p.position(n).line == p.position(out[last].value).line {
			out[last].note = string(n.Data)
		} else {
			heading = append(heading, string(n.Data))
		}
		// The library makes the lines that follow children of the first.
		for more := n.Child(); more != nil && more.Valid(); more = more.Next() {
			heading = append(heading, string(more.Data))
		}
	}
	if heading != nil {
		out = append(out, element{heading: heading})
	}
	return out
}

func (p *parser) patterns(v *unstable.Node, at position) []string {
	out := []string{}
	p.strings(v, at, func(s string, at position) {
		if err := checkPattern(s); err != nil {
			p.fail(at, "%v", err)
		}
		out = append(out, s)
	})
	return out
}

func (p *parser) conduits(v *unstable.Node, at position) {
	p.policy.Conduits = []string{}
	p.strings(v, at, func(s string, at position) {
		if _, err := attribution.NewConduits(s); err != nil {
			p.fail(at, "%v", err)
		}
		p.policy.Conduits = append(p.policy.Conduits, s)
	})
}

func (p *parser) list(v *unstable.Node, at position) List {
	l := List{Line: at.line, Calls: []Call{}}
	seen := make(map[string]int)
	for _, e := range p.elements(v, at) {
		if e.value == nil {
			continue
		}
		s, at, ok := p.text(e.value, at)
		if !ok {
			continue
		}
		if line := seen[s]; line != 0 {
			p.fail(at, "%q is in the list already (line %d)", s, line)
		}
		seen[s] = at.line
		l.Calls = append(l.Calls, Call{Name: s, Heading: uncomment(e.heading...), Note: uncomment(e.note), Line: at.line, Column: at.column})
	}
	return l
}
