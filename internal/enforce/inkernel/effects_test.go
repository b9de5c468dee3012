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
		return "-", func(out outcome) bool { return strings.Contains(out.stdout, "x") }
	}},
	{"write", "write", fileEffect(func(path string) bool { return content(path) != "content" })},
	{"execve", "execve", func(t *testing.T) (string, func(outcome) bool) {
		return nothing(t), func(out outcome) bool { return strings.HasSuffix(out.stdout, "0\n") }
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

// effectCalls are what libb may do, and liba may not but for what it needs to get to them.
func effectCalls(tried ...effect) []string {
	calls := []string{"socket"}
	for _, e := range tried {
		calls = append(calls, e.call)
		switch e.call {
		case "write":
			calls = append(calls, "openat")
		case "sendto":
			calls = append(calls, "connect")
		}
	}
	return calls
}

// batches are the effects that can be tried under one policy: sending over TCP needs a connection.
func batches() [][]effect {
	alone := slices.IndexFunc(effects, func(e effect) bool { return e.name == "connect" })
	return [][]effect{slices.Delete(slices.Clone(effects), alone, alone+1), {effects[alone]}}
}

// TestEffects has libb make all calls, which have their effects, and liba ten times each under LSM hooks: none takes effect.
func TestEffects(t *testing.T) {
	needHooks(t)
	program, file := two(t), nothing(t)
	for _, try := range []struct {
		who    string
		rounds int
		want   bool
	}{{"b", 1, true}, {"a", 10, false}} {
		for _, batch := range batches() {
			words := []string{program}
			var checks []func(outcome) bool
			var names []string
			for _, e := range batch {
				for range try.rounds {
					argument, happened := e.prepare(t)
					words = append(words, try.who, e.name, argument)
					checks, names = append(checks, happened), append(names, e.name)
				}
			}
			out := govern(t, twoPolicy(program, file, "deny", "origin", effectCalls(batch...)...), words...)
			if out.status != 0 {
				t.Errorf("status %d, %q\n%s", out.status, out.stdout, out.stderr)
			}
			for i, happened := range checks {
				if got := happened(out); got != try.want {
					t.Errorf("%s by lib%s takes effect: %t, want %t\n%s", names[i], try.who, got, try.want, out.stdout)
				}
			}
			t.Logf("lib%s: %d calls\n%s", try.who, len(checks), out.stderr)
		}
	}
}

// TestKillEffects finds out which calls a fatal signal at their entry keeps from taking effect without hooks. It wants no
// more than what stoppedBySignal promises, which doctor prints.
func TestKillEffects(t *testing.T) {
	program, file := two(t), nothing(t)
	for _, e := range effects {
		argument, happened := e.prepare(t)
		out := govern(t, twoPolicy(program, file, "kill", "origin", effectCalls(e)...), program, "a", e.name, argument)
		if !strings.Contains(out.stderr, "liba.so may not call "+e.call) {
			t.Errorf("%s: status %d, %q\n%s", e.name, out.status, out.stdout, out.stderr)
		}
		effective := happened(out)
		t.Logf("%s took effect: %t", e.name, effective)
		if effective && (canDeny() == nil || stoppedBySignal[e.call]) {
			t.Errorf("%s took effect", e.name)
		}
	}
}
