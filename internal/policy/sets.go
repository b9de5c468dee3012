package policy

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"bulkhead/internal/syscalls"
)

//go:embed sets.txt
var setsText string

// set is some system calls with the reason why they are allowed without
// evidence.
type set struct {
	reason string
	calls  []string
}

// sets are the sets of sets.txt by kind.
var sets = parseSets(setsText)

var setKinds = []string{"always", "baseline", "heap", "threads", "go", "go-wait", "start"}

func parseSets(text string) map[string][]set {
	out := make(map[string][]set)
	var kind string
	for n, line := range strings.Split(text, "\n") {
		switch {
		case line == "" || line[0] == '#':
		case line[0] != '\t':
			head, reason, _ := strings.Cut(line, " ")
			if kind = head; !slices.Contains(setKinds, kind) {
				panic(fmt.Sprintf("embedded sets.txt: line %d: %q is not one of %v", n+1, kind, setKinds))
			}
			out[kind] = append(out[kind], set{reason: strings.TrimSpace(reason)})
		default:
			last := &out[kind][len(out[kind])-1]
			last.calls = append(last.calls, strings.Fields(line)...)
		}
	}
	return out
}

// of returns the set's calls that one of the ABIs has, sorted.
func (s set) of(abis ...syscalls.ABI) []string {
	var out []string
	for _, call := range s.calls {
		if slices.ContainsFunc(abis, func(abi syscalls.ABI) bool { _, ok := syscalls.Number(abi, call); return ok }) {
			out = append(out, call)
		}
	}
	slices.Sort(out)
	return out
}

// setReason returns the reason why a set of the kind has a call.
func setReason(kind, call string) (string, bool) {
	for _, s := range sets[kind] {
		if slices.Contains(s.calls, call) {
			return s.reason, true
		}
	}
	return "", false
}
