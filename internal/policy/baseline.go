package policy

import (
	_ "embed"
	"fmt"
	"strings"
)

//go:embed baseline.txt
var baselineText string

// harmless is a set of calls with the reason why they are allowed unasked.
type harmless struct {
	reason string
	calls  []string
}

// always and defaults are the two kinds of baseline.txt: what every program may
// do whatever its policy says, and the baseline of derived policies.
var always, defaults = parseBaseline(baselineText)

func parseBaseline(text string) (always []string, defaults []harmless) {
	var kind string
	for n, line := range strings.Split(text, "\n") {
		switch {
		case line == "" || line[0] == '#':
		case line[0] != '\t':
			var reason string
			kind, reason, _ = strings.Cut(line, " ")
			if kind == "default" {
				defaults = append(defaults, harmless{reason: reason})
			}
		case kind == "always":
			always = append(always, strings.Fields(line)...)
		case kind == "default":
			last := &defaults[len(defaults)-1]
			last.calls = append(last.calls, strings.Fields(line)...)
		default:
			panic(fmt.Sprintf("embedded baseline.txt: line %d: neither always nor default", n+1))
		}
	}
	return always, defaults
}
