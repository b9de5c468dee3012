package supervisor

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bulkhead/internal/enforce/backend"
	"bulkhead/internal/enforce/denial"
	"bulkhead/internal/policy"
)

// TestProcess puts a process whose threads run under a policy: from then on its calls are judged.
func TestProcess(t *testing.T) {
	dir := fixtures.Dir()
	build(t, "libdoer.so", doerLibrary)
	program := build(t, "joined", "gcc -O2 -pthread testdata/joined.c -L"+dir+" -ldoer -Wl,-rpath,"+dir)
	rules, err := policy.Parse("policy", []byte(policyText(program, "", "nanosleep clock_nanosleep write rmdir", "joined:mkdir", "libdoer.so:")))
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program)
	c.Dir = t.TempDir()
	ready, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill() }()
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	var denied []string
	err = Process(ctx, c.Process.Pid, backend.Options{
		Policy: rules, Log: t.Logf,
		Denied: func(d *denial.Denial) {
			mu.Lock()
			defer mu.Unlock()
			denied = append(denied, d.Compartment+" "+d.Call.Name)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // its tracer, which is this process, has waited for it
	if len(denied) == 0 || strings.Join(denied[:1], "") != "libdoer.so mkdir" {
		t.Errorf("denied: %q", denied)
	}
	if made, _ := filepath.Glob(filepath.Join(c.Dir, "late*")); len(made) > 0 {
		t.Errorf("made %q", made)
	}
}
