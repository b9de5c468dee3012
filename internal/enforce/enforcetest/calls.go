package enforcetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/internal/policy"
)

// TwoPolicy allows calls to libb and to the program, and not to liba. What the start of a program and its end need is in
// the baseline.
func TwoPolicy(program, nothing, answer, check string, calls ...string) string {
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

// Allowed has libb make the calls, also on behalf of liba: the origin alone decides.
func (b *Backend) Allowed(t *testing.T) {
	program, file := b.Two(t), b.Nothing(t)
	words, said := script(file, "b", "ab")
	for _, answer := range []string{"audit", "kill"} {
		out := b.Govern(t, TwoPolicy(program, file, answer, "origin", conditionalCalls()...), append([]string{program}, words...)...)
		if out.Status != 0 || out.Stdout != said || out.Stderr != "" {
			t.Errorf("%s: status %d, %q, want %q\n%s", answer, out.Status, out.Stdout, said, out.Stderr)
		}
	}
}

// denials counts those of liba, one for each call.
func checkDenials(t *testing.T, out Outcome, whom ...string) {
	t.Helper()
	for _, c := range conditionals {
		if !strings.Contains(out.Stderr, "liba.so may not call "+c.call) {
			t.Errorf("%s: no denial\n%s", c.call, out.Stderr)
		}
	}
	for _, who := range whom {
		if strings.Contains(out.Stderr, who+" may not call") {
			t.Errorf("%s was denied something\n%s", who, out.Stderr)
		}
	}
}

// Audit has liba make the calls, which are reported and made.
func (b *Backend) Audit(t *testing.T) {
	program, file := b.Two(t), b.Nothing(t)
	words, said := script(file, "a", "ba", "b")
	out := b.Govern(t, TwoPolicy(program, file, "audit", "origin", conditionalCalls()...), append([]string{program}, words...)...)
	if out.Status != 0 || out.Stdout != said {
		t.Errorf("status %d, %q, want %q\n%s", out.Status, out.Stdout, said, out.Stderr)
	}
	checkDenials(t, out, "libb.so", "callers")
}

// Deny has liba make the calls, which fail, while those of libb in the same process work.
func (b *Backend) Deny(t *testing.T) {
	program, file := b.Two(t), b.Nothing(t)
	words, _ := script(file, "a", "ba", "b", "ab")
	said := ""
	for _, c := range conditionals {
		denied := "1\n1\n"
		if b.Late && c.call == "mkdir" { // the kernel finds that there is such a file before it asks its hook
			denied = "17\n17\n"
		}
		said += denied + c.result + "\n" + c.result + "\n"
	}
	out := b.Govern(t, TwoPolicy(program, file, "deny", "origin", conditionalCalls()...), append([]string{program}, words...)...)
	if out.Status != 0 || out.Stdout != said {
		t.Errorf("status %d, %q, want %q\n%s", out.Status, out.Stdout, said, out.Stderr)
	}
	checkDenials(t, out, "libb.so", "callers")
}

// Kill has liba make each call, which is its last.
func (b *Backend) Kill(t *testing.T) {
	program, file := b.Two(t), b.Nothing(t)
	for _, c := range conditionals {
		t.Run(c.call, func(t *testing.T) {
			for _, check := range []struct{ how, who string }{{"origin", "a"}, {"origin", "ba"}, {"chain", "ab"}} {
				out := b.Govern(t, TwoPolicy(program, file, "kill", check.how, conditionalCalls()...), program, check.who, c.call, file)
				killed := out.Status == 128+int(unix.SIGKILL) && out.Stdout == "" || out.Stdout == killedChild
				if !killed || !strings.Contains(out.Stderr, "liba.so may not call "+c.call) {
					t.Errorf("%s of %s: status %d, %q\n%s", check.how, check.who, out.Status, out.Stdout, out.Stderr)
				}
			}
		})
	}
}

// Chain has libb make the calls where every compartment on the stack must allow them.
func (b *Backend) Chain(t *testing.T) {
	program, file := b.Two(t), b.Nothing(t)
	words, said := script(file, "b")
	out := b.Govern(t, TwoPolicy(program, file, "kill", "chain", conditionalCalls()...), append([]string{program}, words...)...)
	if out.Status != 0 || out.Stdout != said || out.Stderr != "" {
		t.Errorf("status %d, %q, want %q\n%s", out.Status, out.Stdout, said, out.Stderr)
	}
}

// Bare runs a program under a policy that allows no more than the two calls that it makes: the start needs none of its own.
func (b *Backend) Bare(t *testing.T) {
	program := b.build(t, "bare", "gcc -O2 -static -nostdlib -ffreestanding "+sources+"bare.c")
	rules := fmt.Sprintf("schema = %q\non-violation = \"kill\"\n[[program]]\npath = %q\n[[program.compartment]]\nname = \"bare\"\n"+
		"allow = [\"write\", \"exit_group\"]\n", policy.Schema, program)
	if out := b.Govern(t, rules, program); out.Status != 0 || out.Stdout != "bare\n" || out.Stderr != "" {
		t.Errorf("status %d, %q\n%s", out.Status, out.Stdout, out.Stderr)
	}
}

// killedChild is what the fixture says when the child that should have executed something was killed.
const killedChild = "255\n"

// Symbols has the same code make a call in two libraries. In one of them the functions that make it are a compartment of
// their own, which may not.
func (b *Backend) Symbols(t *testing.T) {
	program, file := b.Two(t), b.Nothing(t)
	rules := strings.Replace(TwoPolicy(program, file, "kill", "origin", "socket"), "name = \"liba.so\"\nallow = []",
		"name = \"withheld\"\nmatch = [\"libb.so\"]\nsymbols = [\"b_c*\"]\nallow = []\n\n"+
			"[[program.compartment]]\nname = \"liba.so\"\nallow = [\"socket\"]", 1)
	out := b.Govern(t, rules, program, "a", "socket", file)
	if out.Status != 0 || out.Stdout != "0\n" || out.Stderr != "" {
		t.Errorf("by liba: status %d, %q\n%s", out.Status, out.Stdout, out.Stderr)
	}
	out = b.Govern(t, rules, program, "b", "socket", file)
	if out.Status != 128+int(unix.SIGKILL) || !strings.Contains(out.Stderr, "withheld may not call socket") {
		t.Errorf("by the functions of libb: status %d, %q\n%s", out.Status, out.Stdout, out.Stderr)
	}
}
