package kernel

import (
	"bufio"
	"fmt"
	"io"
)

// WriteText writes the survey for a person: the probes by group, then what
// follows. Colours are ANSI escapes, if colour is set.
func (s *Survey) WriteText(w io.Writer, colour bool) error {
	out := &text{bufio.NewWriter(w), colour}
	fmt.Fprintf(out, "Linux %s %s, user %d\n", s.Release, s.Machine, s.UID)
	group := ""
	for _, probe := range probes {
		if probe.group != group {
			group = probe.group
			out.heading(group)
		}
		out.result(s.Result(probe.feature))
	}
	out.heading("What follows")
	out.verdict("trace", s.verdict(Trace))
	out.kernelBackend(s)
	out.verdict("enforce, supervisor", s.verdict(Supervisor))
	return out.Flush()
}

type text struct {
	*bufio.Writer
	colour bool
}

const (
	green = "\x1b[32m"
	red   = "\x1b[31m"
	faint = "\x1b[2m"
	bold  = "\x1b[1m"
	reset = "\x1b[0m"
)

func (t *text) paint(colour, s string) string {
	if !t.colour {
		return s
	}
	return colour + s + reset
}

func (t *text) heading(s string) { fmt.Fprintf(t, "\n%s\n", t.paint(bold, s)) }

// result marks with ✓ or ✗ what some use needs, with - what only informs.
func (t *text) result(r Result) {
	mark := t.paint(green, "✓ yes    ")
	switch {
	case !r.Probed:
		mark = t.paint(faint, "? unknown")
	case !r.Available && len(r.NeededFor) == 0:
		mark = t.paint(faint, "- no     ")
	case !r.Available:
		mark = t.paint(red, "✗ no     ")
	}
	fmt.Fprintf(t, "  %s  %-16s %s\n", mark, r.Name, r.Detail)
}

func (t *text) verdict(name string, v Verdict) {
	if v.Works {
		fmt.Fprintf(t, "  %s: %s\n", name, t.paint(green, "works"))
		return
	}
	fmt.Fprintf(t, "  %s: %s, because\n", name, t.paint(red, "does not work"))
	t.causes(v.Missing)
}

// kernelBackend tells the kernel backend's two strengths in one verdict.
func (t *text) kernelBackend(s *Survey) {
	const name = "enforce, kernel backend"
	kill, deny := s.verdict(KernelKill), s.verdict(KernelDeny)
	switch {
	case deny.Works:
		fmt.Fprintf(t, "  %s: %s (deny and kill)\n", name, t.paint(green, "works"))
	case !kill.Works:
		t.verdict(name, kill)
	default:
		fmt.Fprintf(t, "  %s: %s, because\n", name, t.paint(red, "kill only"))
		t.causes(deny.Missing)
		if s.Result(CgroupSock).Available {
			t.WriteString("      still there: cgroup programs can deny socket calls\n")
		}
	}
}

// causes writes what is missing. A remedy stands once, under all that it mends.
func (t *text) causes(missing []Missing) {
	for i, cause := range missing {
		fmt.Fprintf(t, "    - %s: %s\n", cause.Feature, cause.Reason)
		if i+1 < len(missing) && missing[i+1].Remedy == cause.Remedy {
			continue
		}
		remedy := cause.Remedy
		if remedy == "" {
			remedy = "none known on this kernel: use another backend or boot another kernel"
		}
		fmt.Fprintf(t, "      remedy: %s\n", remedy)
	}
}
