package report

import (
	"fmt"
	"strings"

	"bulkhead/internal/attribution"
)

// losses says in words what was lost, why, and what helps: one string each.
func losses(p *program) []string {
	var out []string
	l := &p.Losses
	if n := l.LostEvents; n > 0 {
		out = append(out, fmt.Sprintf("%s made but not recorded: the counts are too low. Record again with fewer processes at once (--no-follow, --pid)", calls(n)))
	}
	if n := l.Unattributed; n > 0 {
		out = append(out, fmt.Sprintf("%s (%s) charged to %s: the stack did not lead to a library. Usual causes are code without unwind tables and 32-bit entry; see the calls listed there",
			calls(n), percent(share(n, p.calls)), attribution.Unknown))
	}
	if n := l.BrokenStacks; n > 0 {
		out = append(out, fmt.Sprintf("%s with a stack that ended early: the library charged is right, chains may be too short. A policy that checks the origin does not need them", calls(n)))
	}
	if n := len(l.UnresolvedSites); n > 0 {
		places := make([]string, n)
		for i, f := range l.UnresolvedSites {
			places[i] = place(f)
		}
		out = append(out, fmt.Sprintf("%s in the code with a number that is not known (%s). Trace the program and merge both documents",
			plural(uint64(n), "system call"), some(places)))
	}
	if n := len(l.OpenEnds); n > 0 {
		places := make([]string, n)
		for i, e := range l.OpenEnds {
			places[i] = place(attribution.Frame{Object: e.Object, Function: e.Function, Offset: e.Offset}) + ": " + e.Reason
		}
		out = append(out, fmt.Sprintf("%s to code that was not looked at (%s). Trace the program and merge both documents",
			plural(uint64(n), "way"), some(places)))
	}
	return out
}

func place(f attribution.Frame) string {
	if f.Function == "" {
		return fmt.Sprintf("%s+%#x", f.Object, f.Offset)
	}
	return fmt.Sprintf("%s %s+%#x", f.Object, f.Function, f.Offset)
}

// some lists the first few.
func some(places []string) string {
	const few = 3
	if len(places) <= few {
		return strings.Join(places, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(places[:few], "; "), len(places)-few)
}

func calls(n uint64) string { return plural(n, "call") }

func plural(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return thousands(n) + " " + noun + "s"
}
