package supervisor

import (
	"os"
	"testing"

	"bulkhead/internal/enforce/enforcetest"
)

// asNobody runs the tests of all backends as an ordinary user.
func asNobody() *enforcetest.Backend {
	b := &enforcetest.Backend{UID: os.Geteuid(), Fixtures: fixtures}
	if b.UID == 0 {
		b.UID = nobody
	}
	b.Govern = func(t *testing.T, rules string, command ...string) enforcetest.Outcome {
		t.Helper()
		out := supervise(t, rules, command...)
		if out.status == ownFailure {
			t.Fatalf("%q: %s", command, out.stderr)
		}
		return enforcetest.Outcome{Status: out.status, Stdout: out.stdout, Stderr: out.stderr}
	}
	return b
}

func TestAllowed(t *testing.T)       { asNobody().Allowed(t) }
func TestAudit(t *testing.T)         { asNobody().Audit(t) }
func TestDeny(t *testing.T)          { asNobody().Deny(t) }
func TestKill(t *testing.T)          { asNobody().Kill(t) }
func TestChain(t *testing.T)         { asNobody().Chain(t) }
func TestBare(t *testing.T)          { asNobody().Bare(t) }
func TestNoEffects(t *testing.T)     { asNobody().NoEffects(t) }
func TestEscapes(t *testing.T)       { asNobody().WaysAround(t) }
func TestNoFalseDenial(t *testing.T) { asNobody().NoFalseDenial(t) }
func TestGoModules(t *testing.T)     { asNobody().GoModules(t, "deny") }
func TestSymbols(t *testing.T)       { asNobody().Symbols(t) }
