package enforcetest

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/internal/syscalls"
)

// modulesPolicy allows all calls (%[2]s) but execve to all, and execve to one module.
const modulesPolicy = `schema = "bulkhead.policy/v1"
on-violation = %q
[baseline]
allow = %s
[[program]]
path = %q
[[program]]
path = %q
[[program.compartment]]
name = "run"
modules = ["example.com/run"]
allow = ["execve"]
[[program.compartment]]
name = "dial"
modules = ["example.com/dial"]
allow = []
`

// GoModules has two modules of a Go program execute another program. One of them may.
func (b *Backend) GoModules(t *testing.T, answer string) {
	executed, err := filepath.EvalSymlinks("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	var others []string
	for _, name := range syscalls.All(syscalls.AMD64) {
		if name != "execve" && name != "execveat" {
			others = append(others, name)
		}
	}
	for name, flags := range map[string]string{"plain": "-tags misbehave", "stripped": "-tags misbehave -trimpath -ldflags=-s"} {
		t.Run(name, func(t *testing.T) {
			program := b.Fixtures.GoModules(t, "gomodules-"+name, flags)
			rules := fmt.Sprintf(modulesPolicy, answer, list(others), executed, program)
			out := b.Govern(t, rules, program, "files", "dial", "run")
			said := strings.Split(strings.TrimSpace(out.Stdout), "\n")
			if out.Status != 1 || len(said) != 3 || said[0] != "files done" || !strings.HasPrefix(said[1], "dial failed") ||
				said[2] != "run done" {
				t.Errorf("status %d, %q\n%s", out.Status, said, out.Stderr)
			}
			if strings.Count(out.Stderr, "may not call") != 1 || !strings.Contains(out.Stderr, "dial may not call execve") {
				t.Errorf("want one denial, of dial\n%s", out.Stderr)
			}
		})
	}
}
