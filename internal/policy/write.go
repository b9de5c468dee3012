package policy

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"bulkhead/internal/syscalls"
)

// Text returns the policy as a formatted file. [Parse] reads the same policy
// from it, but for the places in the file and the comments that a Policy does
// not hold. It is for policies that are valid; another gives [Parse]'s error.
func (p *Policy) Text() ([]byte, error) {
	var b bytes.Buffer
	writeComment(&b, p.Head)
	if p.Head != "" {
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "schema = %q\ncheck = %q\non-violation = %q\non-exec = %q\n", Schema, p.Check, p.OnViolation, p.OnExec)
	writePatterns(&b, "conduits", p.Conduits)
	if p.Baseline.Calls != nil {
		b.WriteString("[baseline] # allowed to every compartment: decided without walking a stack\n")
		writeAllow(&b, p.Baseline)
	}
	for i := range p.Programs {
		writeProgram(&b, &p.Programs[i])
	}
	return Format(p.File, b.Bytes())
}

func writeProgram(b *bytes.Buffer, program *Program) {
	fmt.Fprintf(b, "[[program]]%s\npath = %s\n", behind(program.Note), quote(program.Path))
	if program.ABI != syscalls.AMD64 {
		fmt.Fprintf(b, "arch = %q\n", program.ABI)
	}
	for i := range program.Compartments {
		writeCompartment(b, program, &program.Compartments[i])
	}
}

func writeCompartment(b *bytes.Buffer, program *Program, c *Compartment) {
	fmt.Fprintf(b, "[[program.compartment]]%s\nname = %s\n", behind(c.Note), quote(c.Name))
	if !slices.Equal(c.Match, c.defaultMatch(program)) {
		writePatterns(b, "match", c.Match)
	}
	writePatterns(b, "symbols", c.Symbols)
	writePatterns(b, "modules", c.Modules)
	writeAllow(b, c.Allow)
}

func writeComment(b *bytes.Buffer, text string) {
	if text == "" {
		return
	}
	for line := range strings.SplitSeq(text, "\n") {
		b.WriteString(strings.TrimRight("# "+line, " ") + "\n")
	}
}

// behind returns a comment for the end of a line.
func behind(note string) string {
	if note == "" {
		return ""
	}
	return " # " + note
}

func writePatterns(b *bytes.Buffer, key string, list []string) {
	if list == nil {
		return
	}
	words := make([]string, len(list))
	for i, s := range list {
		words[i] = quote(s)
	}
	fmt.Fprintf(b, "%s = [%s]\n", key, strings.Join(words, ", "))
}

func writeAllow(b *bytes.Buffer, l List) {
	b.WriteString("allow = [\n")
	for _, c := range l.Calls {
		writeComment(b, c.Heading)
		b.WriteString(quote(c.Name) + "," + behind(c.Note) + "\n")
	}
	b.WriteString("]\n")
}
