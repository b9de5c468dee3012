package inkernel

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/internal/cfi"
	"bulkhead/internal/enforce/backend"
	"bulkhead/internal/enforce/denial"
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

// asWrapper makes this test binary run a command under the policy that it names: a target shares the standard files of its
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
	status, err := Command(context.Background(), os.Args[1], os.Args[1:], func(int) {}, backend.Options{
		Policy: p, Denied: log.Add, Cache: cache,
		Log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, "note: "+format+"\n", args...) },
	})
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

// outcome is how a command under a policy ended.
type outcome struct {
	status int // 128 and the signal
	stdout string
	stderr string // with the denials
}

// govern runs a command under a policy in a process of its own.
func govern(t *testing.T, rules string, command ...string) outcome {
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
	out := outcome{c.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	if out.status == 125 {
		t.Fatalf("%q: %s", command, out.stderr)
	}
	return out
}

// prebuilt is the folder of the fixtures in a virtual machine, where there is no compiler.
var prebuilt = os.Getenv("BULKHEAD_TEST_FIXTURES")

// two builds the program with two libraries.
func two(t *testing.T) string {
	t.Helper()
	if prebuilt != "" {
		return filepath.Join(prebuilt, "two")
	}
	for _, lib := range []string{"a", "b"} {
		fixtures.Build(t, "lib"+lib+".so", "gcc -O2 -fPIC -shared -Wl,-soname,lib"+lib+".so -fomit-frame-pointer -fno-optimize-sibling-calls -DLIB="+lib+" testdata/calls.c")
	}
	return fixtures.Build(t, "two", fmt.Sprintf("gcc -O2 testdata/two.c %[1]s/liba.so %[1]s/libb.so -Wl,-rpath,$ORIGIN", fixtures.Dir()))
}

// nothing builds a program that does nothing, to be executed.
func nothing(t *testing.T) string {
	t.Helper()
	if prebuilt != "" {
		return filepath.Join(prebuilt, "nothing")
	}
	return fixtures.Build(t, "nothing", "gcc -O2 testdata/nothing.c")
}

// twoPolicy allows calls to libb and to the program, and not to liba. What the start of a program and its end need is in
// the baseline.
func twoPolicy(program, nothing, answer, check string, calls ...string) string {
	return fmt.Sprintf(`schema = "bulkhead.policy/v1"
check = %q
on-violation = %q

[baseline]
allow = ["read", "close", "fstat", "newfstatat", "mmap", "munmap", "brk", "arch_prctl", "set_tid_address",
	"set_robust_list", "rseq", "prlimit64", "getrandom", "pread64", "access", "exit_group", "wait4", "rt_sigprocmask", "readlink",
	"vfork"]

[[program]]
path = %q

[[program.compartment]]
name = "loader"
match = ["ld-linux-*"]
allow = ["openat", "mprotect"]

[[program.compartment]]
name = "libc.so.6"
allow = ["write"]

[[program.compartment]]
name = "callers"
match = ["two", "libb.so"]
allow = %[4]s

[[program.compartment]]
name = "liba.so"
allow = [%[6]s]

[[program]]
path = %[5]q

[[program.compartment]]
name = "all"
match = ["*"]
allow = ["openat", "mprotect"]
`, check, answer, program, list(append([]string{"write"}, calls...)), nothing, both(calls))
}

// list is an array of TOML.
func list(words []string) string {
	slices.Sort(words)
	return strings.ReplaceAll(fmt.Sprintf("%q", slices.Compact(words)), `" "`, `", "`)
}

// both is what liba may do too: what it needs to get to the calls that are tried.
func both(calls []string) string {
	needs := map[string][]string{"write": {"openat"}, "sendto": {"socket", "connect"}, "connect": {"socket"}}
	var words []string
	for _, call := range calls {
		for _, need := range needs[call] {
			words = append(words, fmt.Sprintf("%q", need))
		}
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), ", ")
}

// conditionals are the calls that libb may make and liba may not, and the errno of each.
var conditionals = []struct{ call, result string }{
	{"execve", "0"}, {"socket", "0"}, {"openat", "0"}, {"mprotect", "0"}, {"clone", "0"}, {"mkdir", "17"},
}

func conditionalCalls() (calls []string) {
	for _, c := range conditionals {
		calls = append(calls, c.call)
	}
	return calls
}

// script returns the words that have the fixture make each call as each of whom, and what it says then, if all return.
func script(file string, whom ...string) (words []string, said string) {
	for _, c := range conditionals {
		for _, who := range whom {
			words = append(words, who, c.call, file)
			said += c.result + "\n"
		}
	}
	return words, said
}

// TestAllowed has libb make the calls, also on behalf of liba: the origin alone decides.
func TestAllowed(t *testing.T) {
	program, file := two(t), nothing(t)
	words, said := script(file, "b", "ab")
	for _, answer := range []string{"audit", "kill"} {
		out := govern(t, twoPolicy(program, file, answer, "origin", conditionalCalls()...), append([]string{program}, words...)...)
		if out.status != 0 || out.stdout != said || out.stderr != "" {
			t.Errorf("%s: status %d, %q, want %q\n%s", answer, out.status, out.stdout, said, out.stderr)
		}
	}
}

// denials counts those of liba, one for each call.
func checkDenials(t *testing.T, out outcome, whom ...string) {
	t.Helper()
	for _, c := range conditionals {
		if !strings.Contains(out.stderr, "liba.so may not call "+c.call) {
			t.Errorf("%s: no denial\n%s", c.call, out.stderr)
		}
	}
	for _, who := range whom {
		if strings.Contains(out.stderr, who+" may not call") {
			t.Errorf("%s was denied something\n%s", who, out.stderr)
		}
	}
}

// TestAudit has liba make the calls, which are reported and made.
func TestAudit(t *testing.T) {
	program, file := two(t), nothing(t)
	words, said := script(file, "a", "ba", "b")
	out := govern(t, twoPolicy(program, file, "audit", "origin", conditionalCalls()...), append([]string{program}, words...)...)
	if out.status != 0 || out.stdout != said {
		t.Errorf("status %d, %q, want %q\n%s", out.status, out.stdout, said, out.stderr)
	}
	checkDenials(t, out, "libb.so", "callers")
}

// TestDeny has liba make the calls, which fail, while those of libb in the same process work.
func TestDeny(t *testing.T) {
	needHooks(t)
	program, file := two(t), nothing(t)
	words, _ := script(file, "a", "ba", "b", "ab")
	said := ""
	for _, c := range conditionals {
		denied := "1\n1\n"
		if c.call == "mkdir" { // the kernel finds that there is such a file before it asks its hook
			denied = "17\n17\n"
		}
		said += denied + c.result + "\n" + c.result + "\n"
	}
	out := govern(t, twoPolicy(program, file, "deny", "origin", conditionalCalls()...), append([]string{program}, words...)...)
	if out.status != 0 || out.stdout != said {
		t.Errorf("status %d, %q, want %q\n%s", out.status, out.stdout, said, out.stderr)
	}
	checkDenials(t, out, "libb.so", "callers")
}

// TestKill has liba make each call, which is its last.
func TestKill(t *testing.T) {
	program, file := two(t), nothing(t)
	for _, c := range conditionals {
		t.Run(c.call, func(t *testing.T) {
			for _, check := range []struct{ how, who string }{{"origin", "a"}, {"origin", "ba"}, {"chain", "ab"}} {
				out := govern(t, twoPolicy(program, file, "kill", check.how, conditionalCalls()...), program, check.who, c.call, file)
				killed := out.status == 128+int(unix.SIGKILL) && out.stdout == "" || out.stdout == killedChild
				if !killed || !strings.Contains(out.stderr, "liba.so may not call "+c.call) {
					t.Errorf("%s of %s: status %d, %q\n%s", check.how, check.who, out.status, out.stdout, out.stderr)
				}
			}
		})
	}
}

// TestChain has libb make the calls where every compartment on the stack must allow them.
func TestChain(t *testing.T) {
	program, file := two(t), nothing(t)
	words, said := script(file, "b")
	out := govern(t, twoPolicy(program, file, "kill", "chain", conditionalCalls()...), append([]string{program}, words...)...)
	if out.status != 0 || out.stdout != said || out.stderr != "" {
		t.Errorf("status %d, %q, want %q\n%s", out.status, out.stdout, said, out.stderr)
	}
}

// killedChild is what the fixture says when the child that should have executed something was killed.
const killedChild = "255\n"

// needHooks skips a test where the kernel runs no LSM hooks: TestInVM runs it where it does.
func needHooks(t *testing.T) {
	t.Helper()
	err := canDeny()
	if err != nil && prebuilt == "" {
		t.Skip(err)
	}
	testenv.Require(t, err)
}
