package inkernel

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"bulkhead/internal/cfi"
	"bulkhead/internal/enforce/backend"
	"bulkhead/internal/enforce/denial"
	"bulkhead/internal/enforce/enforcetest"
	"bulkhead/internal/kernel"
	"bulkhead/internal/policy"
	"bulkhead/internal/testenv"
)

var fixtures *testenv.Fixtures

func TestMain(m *testing.M) {
	if os.Getenv(asWrapper) != "" {
		wrap()
	}
	var err error
	if fixtures, err = testenv.NewFixtures(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	fixtures.Close()
	os.Exit(code)
}

var canDeny = sync.OnceValue(func() error { return kernel.Require(kernel.KernelDeny) })

var canKill = sync.OnceValue(func() error { return kernel.Require(kernel.KernelKill) })

// asWrapper makes this test binary run a command, or join a process, under the policy that it names: a target shares the standard files of its
// wrapper, and its end may be that of the wrapper's children.
const asWrapper = "BULKHEAD_TEST_POLICY"

func wrap() {
	p, err := policy.Load(os.Getenv(asWrapper))
	if err != nil {
		fail(err)
	}
	os.Unsetenv(asWrapper)
	cache, err := cfi.OpenCache("")
	if err != nil {
		fail(err)
	}
	log := denial.NewLog(func(text string) { fmt.Fprint(os.Stderr, text) }, nil)
	opts := backend.Options{
		Policy: p, Denied: log.Add, Cache: cache,
		Log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, "note: "+format+"\n", args...) },
	}
	if pid, err := strconv.Atoi(os.Args[1]); err == nil {
		ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
		defer cancel()
		if err := Process(ctx, pid, opts); err != nil {
			fail(err)
		}
		os.Exit(0)
	}
	status, err := Command(context.Background(), os.Args[1], os.Args[1:], func(int) {}, opts)
	if err != nil {
		fail(err)
	}
	if status.Signaled() {
		os.Exit(128 + int(status.Signal()))
	}
	os.Exit(status.ExitStatus())
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "wrapper:", err)
	os.Exit(125)
}

// govern runs a command under a policy in a process of its own.
func govern(t *testing.T, rules string, command ...string) enforcetest.Outcome {
	t.Helper()
	testenv.Require(t, canKill())
	file := filepath.Join(t.TempDir(), "policy")
	if err := os.WriteFile(file, []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "/proc/self/exe", command...)
	c.Env = append(os.Environ(), asWrapper+"="+file)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	if c.ProcessState == nil {
		t.Fatal(err)
	}
	out := enforcetest.Outcome{Status: c.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
	if out.Status == 125 {
		t.Fatalf("%q: %s", command, out.Stderr)
	}
	return out
}

// kernelBackend is what the tests of all backends are run on.
func kernelBackend() *enforcetest.Backend {
	return &enforcetest.Backend{Govern: govern, UID: os.Geteuid(), Late: true, Fixtures: fixtures}
}

func TestAllowed(t *testing.T)   { kernelBackend().Allowed(t) }
func TestAudit(t *testing.T)     { kernelBackend().Audit(t) }
func TestKill(t *testing.T)      { kernelBackend().Kill(t) }
func TestChain(t *testing.T)     { kernelBackend().Chain(t) }
func TestGoModules(t *testing.T) { kernelBackend().GoModules(t, "kill") }
func TestSymbols(t *testing.T)   { kernelBackend().Symbols(t) }
func TestBare(t *testing.T)      { kernelBackend().Bare(t) }

func TestDeny(t *testing.T) {
	needHooks(t)
	kernelBackend().Deny(t)
}

func TestEffects(t *testing.T) {
	needHooks(t)
	kernelBackend().NoEffects(t)
}

// needHooks skips a test where the kernel runs no LSM hooks: TestInVM runs it where it does.
func needHooks(t *testing.T) {
	t.Helper()
	err := canDeny()
	if err != nil && enforcetest.Prebuilt == "" {
		t.Skip(err)
	}
	testenv.Require(t, err)
}
