package inkernel

import (
	"strings"
	"testing"

	"bulkhead/internal/enforce/enforcetest"
)

// TestKillEffects finds out which calls a fatal signal at their entry keeps from taking effect without hooks. It wants no
// more than what stoppedBySignal promises, which doctor prints.
func TestKillEffects(t *testing.T) {
	b := kernelBackend()
	program, file := b.Two(t), b.Nothing(t)
	for _, e := range enforcetest.Effects {
		argument, happened := e.Prepare(b, t)
		out := govern(t, enforcetest.TwoPolicy(program, file, "kill", "origin", enforcetest.EffectCalls(e)...), program, "a", e.Name, argument)
		if !strings.Contains(out.Stderr, "liba.so may not call "+e.Call) {
			t.Errorf("%s: status %d, %q\n%s", e.Name, out.Status, out.Stdout, out.Stderr)
		}
		effective := happened(out)
		t.Logf("%s took effect: %t", e.Name, effective)
		if effective && (canDeny() == nil || stoppedBySignal[e.Call]) {
			t.Errorf("%s took effect", e.Name)
		}
	}
}
