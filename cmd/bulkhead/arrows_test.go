package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// never lists for each package what it must not depend on, directly or not: data flows one way (docs/architecture.md).
var never = map[string]string{
	"attribution": "analysis bpf cfi enforce policy profile report stats stracelog trace",
	"analysis":    "bpf enforce policy profile report stats stracelog trace",
	"trace":       "analysis enforce policy profile report stats stracelog",
	"stracelog":   "analysis bpf enforce policy profile report stats trace",
	"policy":      "analysis bpf cfi enforce profile ptrace report seccomp stats stracelog trace",
	"profile":     "analysis bpf enforce report stats stracelog trace",
	"seccomp":     "analysis attribution bpf enforce policy profile report stats stracelog trace",
	"enforce":     "analysis profile report stats stracelog trace",
	"stats":       "analysis bpf enforce policy profile report stracelog trace",
	"report":      "analysis bpf cfi enforce policy profile ptrace seccomp stracelog trace",
	"bpf":         "analysis attribution enforce policy profile report stats stracelog trace",
}

func TestArrows(t *testing.T) {
	t.Parallel()
	const prefix = "bulkhead/internal/"
	for from, list := range never {
		out, err := exec.Command("go", "list", "-deps", prefix+from).Output()
		if err != nil {
			t.Fatalf("go list -deps %s%s: %v", prefix, from, err)
		}
		for dependency := range strings.Lines(string(out)) {
			to, ours := strings.CutPrefix(strings.TrimSpace(dependency), prefix)
			if ours && slices.Contains(strings.Fields(list), strings.SplitN(to, "/", 2)[0]) && !strings.HasPrefix(to, from+"/") {
				t.Errorf("%s depends on %s", from, to)
			}
		}
	}
}
