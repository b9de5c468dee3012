package trace

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"bulkhead/internal/attribution"
)

// want is what a fixture's source says about one system call of one compartment, in a comment of the form
//
//	want: COMPARTMENT SYSCALL COUNT [via=F] [chain=C,D] [frames=F,G] [depth=N] [program=P]
//
// No other compartment of the program makes the call. via, chain (innermost first) and frames are checked where given,
// via only in programs with a shared libc. "want glibc:" and "want musl:" hold for one libc only. frames are functions of the example stack in their order, with
// others between them; depth is its least length. PROGRAM stands for the fixture's own name. In lists "," separates.
type want struct {
	program, compartment, syscall string
	count                         uint64
	depth                         int
	via, chain, frames            []string // nil: not checked
}

// expectations is all that a source says.
type expectations struct {
	wants []want
	// losses are the fields of the losses that are not zero: "broken_stacks=1", or without a number any.
	losses []string
}

func readExpectations(t *testing.T, source, program, libc string) (e expectations) {
	t.Helper()
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "// losses: "); ok {
			e.losses = strings.Fields(rest)
		}
		rest, ok := strings.CutPrefix(line, "// want: ")
		if !ok {
			rest, ok = strings.CutPrefix(line, "// want "+libc+": ")
		}
		if ok {
			w, err := parseWant(strings.ReplaceAll(rest, "PROGRAM", program), program)
			if err != nil {
				t.Fatalf("%s: %q: %v", source, line, err)
			}
			e.wants = append(e.wants, w)
		}
	}
	if len(e.wants) == 0 {
		t.Fatalf("%s says nothing", source)
	}
	return e
}

func parseWant(text, program string) (w want, err error) {
	fields := strings.Fields(text)
	if len(fields) < 3 {
		return w, fmt.Errorf("too few fields")
	}
	w = want{program: program, compartment: fields[0], syscall: fields[1]}
	if w.count, err = strconv.ParseUint(fields[2], 10, 64); err != nil {
		return w, err
	}
	for _, field := range fields[3:] {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "via":
			w.via = list(value)
		case "chain":
			w.chain = list(value)
		case "frames":
			w.frames = list(value)
		case "depth":
			w.depth, err = strconv.Atoi(value)
		case "program":
			w.program = value
		default:
			err = fmt.Errorf("unknown key %q", key)
		}
		if err != nil {
			return w, err
		}
	}
	return w, nil
}

func list(text string) []string {
	if text == "" {
		return []string{}
	}
	return strings.Split(text, ",")
}

// check compares a document with what the source says. A program without a libc of its own names no function that the
// call went through.
func (e *expectations) check(t *testing.T, doc *attribution.Document, sharedLibc bool) {
	t.Helper()
	for _, w := range e.wants {
		p := findProgram(doc, w.program)
		if p == nil {
			t.Errorf("no program %s", w.program)
			continue
		}
		if !sharedLibc {
			w.via = nil
		}
		w.check(t, p)
	}
	for i := range doc.Programs {
		e.checkLosses(t, &doc.Programs[i])
	}
}

func findProgram(doc *attribution.Document, name string) *attribution.Program {
	for i := range doc.Programs {
		if attribution.ObjectName(doc.Programs[i].Path) == name {
			return &doc.Programs[i]
		}
	}
	return nil
}

func (w *want) check(t *testing.T, p *attribution.Program) {
	t.Helper()
	var found *attribution.Syscall
	for i := range p.Compartments {
		c := &p.Compartments[i]
		for j := range c.Syscalls {
			s := &c.Syscalls[j]
			if s.Label(p.Arch) != w.syscall {
				continue
			}
			if c.Name == w.compartment {
				found = s
			} else if !w.elsewhere(p) {
				t.Errorf("%s: %d calls are charged to %s: %s", w.syscall, s.Count, c.Name, stackText(s.Example))
			}
		}
	}
	if found == nil {
		t.Errorf("%s: no calls are charged to %s", w.syscall, w.compartment)
		return
	}
	if found.Count != w.count {
		t.Errorf("%s of %s: %d calls, want %d", w.syscall, w.compartment, found.Count, w.count)
	}
	if w.via != nil && !slices.Equal(found.Via, w.via) {
		t.Errorf("%s of %s: via %q, want %q", w.syscall, w.compartment, found.Via, w.via)
	}
	w.checkStack(t, found.Example)
	w.checkChains(t, p)
}

// elsewhere: system calls that the loader and libc make by themselves too.
func (w *want) elsewhere(p *attribution.Program) bool {
	return slices.Contains([]string{"execve", "exit_group", "write"}, w.syscall)
}

func (w *want) checkStack(t *testing.T, example []attribution.Frame) {
	t.Helper()
	if len(example) < w.depth {
		t.Errorf("%s: the stack has %d frames, want at least %d", w.syscall, len(example), w.depth)
	}
	rest := w.frames
	for _, f := range example {
		if len(rest) > 0 && f.Function == rest[0] {
			rest = rest[1:]
		}
	}
	if len(rest) > 0 {
		t.Errorf("%s: the stack has no %s in order: %s", w.syscall, strings.Join(w.frames, " < "), stackText(example))
	}
}

func (w *want) checkChains(t *testing.T, p *attribution.Program) {
	t.Helper()
	if w.chain == nil {
		return
	}
	found := false
	for _, c := range p.Chains {
		if !slices.Contains(c.Syscalls, w.syscall) || c.Compartments[0] != w.compartment {
			continue
		}
		if slices.Equal(c.Compartments, w.chain) {
			found = true
		} else {
			t.Errorf("%s: also a chain %q, want only %q", w.syscall, c.Compartments, w.chain)
		}
	}
	if !found {
		t.Errorf("%s: no chain %q", w.syscall, w.chain)
	}
}

func (e *expectations) checkLosses(t *testing.T, p *attribution.Program) {
	t.Helper()
	for name, n := range map[string]uint64{
		"lost_events": p.Losses.LostEvents, "unattributed": p.Losses.Unattributed, "broken_stacks": p.Losses.BrokenStacks,
	} {
		allowed := n == 0 && !slices.Contains(e.losses, name) || n > 0 && slices.Contains(e.losses, name)
		if !allowed && !slices.Contains(e.losses, fmt.Sprintf("%s=%d", name, n)) {
			t.Errorf("%s: losses: %s is %d, want %q and nothing else", p.Path, name, n, e.losses)
		}
	}
}

func stackText(frames []attribution.Frame) string {
	var b strings.Builder
	for i, f := range frames {
		if i == 24 {
			fmt.Fprintf(&b, " < … (%d frames)", len(frames))
			break
		}
		if i > 0 {
			b.WriteString(" < ")
		}
		fmt.Fprintf(&b, "%s!%s+%#x", f.Object, f.Function, f.Offset)
	}
	return b.String()
}
