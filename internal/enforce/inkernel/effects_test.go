package inkernel

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An effect is what a system call does that somebody else can see.
type effect struct {
	name string // what the fixture is told to do
	call string // the system call that must not be made
	// prepare returns the fixture's argument, and what tells afterwards whether the call took effect.
	prepare func(t *testing.T) (argument string, happened func(out outcome) bool)
}

func fileEffect(changed func(path string) bool) func(t *testing.T) (string, func(outcome) bool) {
	return func(t *testing.T) (string, func(outcome) bool) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path, func(outcome) bool { return changed(path) }
	}
}

func missing(path string) bool { _, err := os.Stat(path); return errors.Is(err, os.ErrNotExist) }

func content(path string) string { b, _ := os.ReadFile(path); return string(b) }

var effects = []effect{
	{"unlink", "unlink", fileEffect(missing)},
	{"rename", "rename", fileEffect(missing)},
	{"chmod", "chmod", fileEffect(func(path string) bool {
		info, err := os.Stat(path)
		return err != nil || info.Mode().Perm() != 0o600
	})},
	{"truncate", "truncate", fileEffect(func(path string) bool { return content(path) != "content" })},
	{"mkdir", "mkdir", func(t *testing.T) (string, func(outcome) bool) {
		path := filepath.Join(t.TempDir(), "made")
		return path, func(outcome) bool { return !missing(path) }
	}},
	{"kill", "kill", killEffect},
	{"udp", "sendto", udpEffect},
	{"tcp", "sendto", func(t *testing.T) (string, func(outcome) bool) { return tcpEffect(t, true) }},
	{"connect", "connect", func(t *testing.T) (string, func(outcome) bool) { return tcpEffect(t, false) }},
	{"pipe", "write", func(t *testing.T) (string, func(outcome) bool) {
		return "-", func(out outcome) bool { return strings.HasPrefix(out.stdout, "x") }
	}},
	{"write", "write", fileEffect(func(path string) bool { return content(path) != "content" })},
	{"execve", "execve", func(t *testing.T) (string, func(outcome) bool) {
		return nothing(t), func(out outcome) bool { return out.stdout == "0\n" }
	}},
}

func killEffect(t *testing.T) (string, func(outcome) bool) {
	victim := exec.Command("/bin/sleep", "100")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		victim.Process.Kill()
		victim.Wait()
	})
	return strconv.Itoa(victim.Process.Pid), func(outcome) bool {
		time.Sleep(20 * time.Millisecond)
		stat := content(fmt.Sprintf("/proc/%d/stat", victim.Process.Pid))
		return strings.Contains(stat, ") Z ")
	}
}

func udpEffect(t *testing.T) (string, func(outcome) bool) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return strconv.Itoa(c.LocalAddr().(*net.UDPAddr).Port), func(outcome) bool {
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, _ := c.Read(make([]byte, 10))
		return n > 0
	}
}

func tcpEffect(t *testing.T, data bool) (string, func(outcome) bool) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), func(outcome) bool {
		l.SetDeadline(time.Now().Add(50 * time.Millisecond))
		c, err := l.Accept()
		if err != nil || !data {
			return err == nil
		}
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, _ := c.Read(make([]byte, 10))
		return n > 0
	}
}

// killedChild is what the fixture says when the child that should have executed something was killed.
const killedChild = "255\n"

// effectsPolicy allows all that the fixtures do to both libraries, but for one call, which liba may not make.
func effectsPolicy(program, nothing, answer, call string) string {
	all := []string{"read", "write", "close", "fstat", "newfstatat", "mmap", "munmap", "brk", "arch_prctl", "set_tid_address",
		"set_robust_list", "rseq", "prlimit64", "getrandom", "pread64", "access", "exit_group", "wait4", "rt_sigprocmask", "readlink",
		"openat", "mprotect", "vfork", "execve", "socket", "connect", "sendto", "unlink", "rename", "chmod", "truncate", "mkdir", "kill"}
	all = slices.DeleteFunc(all, func(s string) bool { return s == call })
	quoted := fmt.Sprintf("%q", all)
	return fmt.Sprintf(`schema = "bulkhead.policy/v1"
check = "origin"
on-violation = %q

[baseline]
allow = %s

[[program]]
path = %q

[[program.compartment]]
name = "others"
match = ["ld-linux-*", "libc.so.6", "two", "libb.so"]
allow = [%q]

[[program.compartment]]
name = "liba.so"
allow = []

[[program]]
path = %q

[[program.compartment]]
name = "all"
match = ["*"]
allow = []
`, answer, strings.ReplaceAll(quoted, `" "`, `", "`), program, call, nothing)
}

// rounds is how often a call is tried that must not take effect; of one that may, two tell what to expect.
func rounds(prevented bool) int {
	if prevented {
		return 10
	}
	return 2
}

// TestEffects has liba make calls that it may not make, and sees what they did all the same. What hooks deny never happens.
func TestEffects(t *testing.T) {
	program, file := two(t), nothing(t)
	for _, answer := range []string{"kill", "deny"} {
		if answer == "deny" && canDeny() != nil {
			continue // TestInVM runs it
		}
		for _, e := range effects {
			t.Run(answer+"/"+e.name, func(t *testing.T) {
				rules := effectsPolicy(program, file, answer, e.call)
				argument, happened := e.prepare(t)
				if out := govern(t, rules, program, "b", e.name, argument); out.status != 0 || !happened(out) {
					t.Fatalf("libb has no effect: status %d, %q\n%s", out.status, out.stdout, out.stderr)
				}
				prevented := canDeny() == nil || stoppedBySignal[e.name]
				effective, tries := 0, rounds(prevented)
				for range tries {
					argument, happened := e.prepare(t)
					out := govern(t, rules, program, "a", e.name, argument)
					if happened(out) {
						effective++
					}
					if !strings.Contains(out.stderr, "liba.so may not call") || answer == "kill" && out.status != 128+int(unix.SIGKILL) && out.stdout != killedChild {
						t.Fatalf("status %d, %q\n%s", out.status, out.stdout, out.stderr)
					}
				}
				t.Logf("%d of %d took effect", effective, tries)
				if effective > 0 && prevented {
					t.Errorf("%d of %d took effect, none should", effective, tries)
				}
			})
		}
	}
}
