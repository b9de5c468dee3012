package inkernel

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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

// twoPolicy allows calls to libb and not to liba. What the start of a program and its end need is in the baseline.
func twoPolicy(program, nothing, answer, check, call string) string {
	extra := map[string]string{"execve": `"vfork", `, "clone": ""}[call]
	return fmt.Sprintf(`schema = "bulkhead.policy/v1"
check = %q
on-violation = %q

[baseline]
allow = ["read", "write", "close", "fstat", "newfstatat", "mmap", "munmap", "brk", "arch_prctl", "set_tid_address",
	"set_robust_list", "rseq", "prlimit64", "getrandom", "pread64", "access", "exit_group", "wait4", "rt_sigprocmask", "readlink"]

[[program]]
path = %q

[[program.compartment]]
name = "loader"
match = ["ld-linux-*"]
allow = ["openat", "mprotect"]

[[program.compartment]]
name = "libc.so.6"
allow = []

[[program.compartment]]
name = "two"
allow = [%[4]s%[5]q]

[[program.compartment]]
name = "liba.so"
allow = []

[[program.compartment]]
name = "libb.so"
allow = [%[4]s%[5]q]

[[program]]
path = %[6]q

[[program.compartment]]
name = "all"
match = ["*"]
allow = ["openat", "mprotect"]
`, check, answer, program, extra, call, nothing)
}

// conditionals are the calls that libb may make and liba may not, and what they return.
var conditionals = []struct{ call, result string }{
	{"execve", "0\n"}, {"socket", "0\n"}, {"openat", "0\n"}, {"mprotect", "0\n"}, {"clone", "0\n"}, {"mkdir", "17\n"},
}

// TestConditional has libb make a call that libb may make, and liba make the same.
func TestConditional(t *testing.T) {
	program, file := two(t), nothing(t)
	deny := func(t *testing.T, result string, out outcome) {
		if out.status != 0 || out.stdout != "1\n" || !strings.Contains(out.stderr, "liba.so may not call") {
			t.Errorf("liba: status %d, %q\n%s", out.status, out.stdout, out.stderr)
		}
	}
	answers := map[string]func(t *testing.T, result string, out outcome){
		"kill": func(t *testing.T, result string, out outcome) {
			if out.status != 128+int(unix.SIGKILL) || out.stdout != "" || !strings.Contains(out.stderr, "liba.so may not call") {
				t.Errorf("liba: status %d, %q\n%s", out.status, out.stdout, out.stderr)
			}
		},
		"audit": func(t *testing.T, result string, out outcome) {
			if out.status != 0 || out.stdout != result || !strings.Contains(out.stderr, "liba.so may not call") {
				t.Errorf("liba: status %d, %q\n%s", out.status, out.stdout, out.stderr)
			}
		},
	}
	if canDeny() == nil {
		answers["deny"] = deny
	}
	for answer, check := range answers {
		for _, c := range conditionals {
			t.Run(answer+"/"+c.call, func(t *testing.T) {
				rules := twoPolicy(program, file, answer, "origin", c.call)
				for _, who := range []string{"b", "ab"} {
					if out := govern(t, rules, program, who, c.call, file); out.status != 0 || out.stdout != c.result || out.stderr != "" {
						t.Errorf("%s: status %d, %q\n%s", who, out.status, out.stdout, out.stderr)
					}
				}
				check(t, c.result, govern(t, rules, program, "a", c.call, file))
				check(t, c.result, govern(t, rules, program, "ba", c.call, file))
			})
		}
	}
}

// TestChain has liba call through libb, which is fine as long as the origin alone decides.
func TestChain(t *testing.T) {
	program, file := two(t), nothing(t)
	for _, c := range conditionals {
		t.Run(c.call, func(t *testing.T) {
			rules := twoPolicy(program, file, "kill", "chain", c.call)
			if out := govern(t, rules, program, "b", c.call, file); out.status != 0 || out.stdout != c.result || out.stderr != "" {
				t.Errorf("libb: status %d, %q\n%s", out.status, out.stdout, out.stderr)
			}
			out := govern(t, rules, program, "ab", c.call, file)
			if out.status != 128+int(unix.SIGKILL) || out.stdout != "" || !strings.Contains(out.stderr, "liba.so may not call") {
				t.Errorf("liba through libb: status %d, %q\n%s", out.status, out.stdout, out.stderr)
			}
		})
	}
}
