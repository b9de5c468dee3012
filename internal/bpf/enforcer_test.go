package bpf

import (
	"errors"
	"sync"
	"testing"

	"github.com/cilium/ebpf"

	"bulkhead/internal/kernel"
	"bulkhead/internal/testenv"
)

var canEnforce = sync.OnceValue(func() error { return kernel.Require(kernel.KernelKill) })

func newEnforcer(t *testing.T, hooks []string) *Enforcer {
	t.Helper()
	testenv.Require(t, canEnforce())
	enforcer, err := NewEnforcer(hooks, nil)
	if err != nil {
		var refused *ebpf.VerifierError
		if errors.As(err, &refused) {
			t.Fatalf("%+v", refused)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := enforcer.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return enforcer
}

func TestLoadEnforcer(t *testing.T) {
	enforcer := newEnforcer(t, nil)
	if n := enforcer.Live(); n != 0 {
		t.Errorf("%d threads are governed before any was marked", n)
	}
}
