package enforcetest

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
	"syscall"
	"testing"
	"time"
)

// An Effect is what a system call does that somebody else can see.
type Effect struct {
	Name string // what the fixture is told to do
	Call string // the system call that must not be made
	// Prepare returns the fixture's argument, and what tells afterwards whether the call took effect.
	Prepare func(b *Backend, t *testing.T) (argument string, happened func(Outcome) bool)
}

func fileEffect(changed func(path string) bool) func(*Backend, *testing.T) (string, func(Outcome) bool) {
	return func(b *Backend, t *testing.T) (string, func(Outcome) bool) {
		path := filepath.Join(b.folder(t), "file")
		if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
		b.own(t, path)
		return path, func(Outcome) bool { return changed(path) }
	}
}

func missing(path string) bool { _, err := os.Stat(path); return errors.Is(err, os.ErrNotExist) }

func content(path string) string { b, _ := os.ReadFile(path); return string(b) }

// Effects are those of all kinds.
var Effects = []Effect{
	{"unlink", "unlink", fileEffect(missing)},
	{"rename", "rename", fileEffect(missing)},
	{"chmod", "chmod", fileEffect(func(path string) bool {
		info, err := os.Stat(path)
		return err != nil || info.Mode().Perm() != 0o600
	})},
	{"truncate", "truncate", fileEffect(func(path string) bool { return content(path) != "content" })},
	{"mkdir", "mkdir", func(b *Backend, t *testing.T) (string, func(Outcome) bool) {
		path := filepath.Join(b.folder(t), "made")
		return path, func(Outcome) bool { return !missing(path) }
	}},
	{"kill", "kill", killEffect},
	{"udp", "sendto", udpEffect},
	{"tcp", "sendto", func(_ *Backend, t *testing.T) (string, func(Outcome) bool) { return tcpEffect(t, true) }},
	{"connect", "connect", func(_ *Backend, t *testing.T) (string, func(Outcome) bool) { return tcpEffect(t, false) }},
	{"pipe", "write", func(b *Backend, t *testing.T) (string, func(Outcome) bool) {
		return "-", func(out Outcome) bool { return strings.Contains(out.Stdout, "x") }
	}},
	{"write", "write", fileEffect(func(path string) bool { return content(path) != "content" })},
	{"execve", "execve", func(b *Backend, t *testing.T) (string, func(Outcome) bool) {
		return b.Nothing(t), func(out Outcome) bool { return strings.HasSuffix(out.Stdout, "0\n") }
	}},
}

func killEffect(b *Backend, t *testing.T) (string, func(Outcome) bool) {
	victim := exec.Command("/bin/sleep", "100")
	if os.Geteuid() != b.UID {
		victim.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(b.UID), Gid: uint32(b.UID)}}
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		victim.Process.Kill()
		victim.Wait()
	})
	return strconv.Itoa(victim.Process.Pid), func(Outcome) bool {
		time.Sleep(20 * time.Millisecond)
		stat := content(fmt.Sprintf("/proc/%d/stat", victim.Process.Pid))
		return strings.Contains(stat, ") Z ")
	}
}

func udpEffect(_ *Backend, t *testing.T) (string, func(Outcome) bool) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return strconv.Itoa(c.LocalAddr().(*net.UDPAddr).Port), func(Outcome) bool {
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, _ := c.Read(make([]byte, 10))
		return n > 0
	}
}

func tcpEffect(t *testing.T, data bool) (string, func(Outcome) bool) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), func(Outcome) bool {
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

// EffectCalls are what libb may do, and liba may not but for what it needs to get to them.
func EffectCalls(tried ...Effect) []string {
	calls := []string{"socket"}
	for _, e := range tried {
		calls = append(calls, e.Call)
		switch e.Call {
		case "write":
			calls = append(calls, "openat")
		case "sendto":
			calls = append(calls, "connect")
		}
	}
	return calls
}

// batches are the effects that can be tried under one policy: sending over TCP needs a connection.
func batches() [][]Effect {
	alone := slices.IndexFunc(Effects, func(e Effect) bool { return e.Name == "connect" })
	return [][]Effect{slices.Delete(slices.Clone(Effects), alone, alone+1), {Effects[alone]}}
}

// NoEffects has libb make all calls, which have their effects, and liba ten times each: none takes effect.
func (b *Backend) NoEffects(t *testing.T) {
	program, file := b.Two(t), b.Nothing(t)
	for _, try := range []struct {
		who    string
		rounds int
		want   bool
	}{{"b", 1, true}, {"a", 10, false}} {
		for _, batch := range batches() {
			words := []string{program}
			var checks []func(Outcome) bool
			var names []string
			for _, e := range batch {
				for range try.rounds {
					argument, happened := e.Prepare(b, t)
					words = append(words, try.who, e.Name, argument)
					checks, names = append(checks, happened), append(names, e.Name)
				}
			}
			out := b.Govern(t, TwoPolicy(program, file, "deny", "origin", EffectCalls(batch...)...), words...)
			if out.Status != 0 {
				t.Errorf("status %d, %q\n%s", out.Status, out.Stdout, out.Stderr)
			}
			for i, happened := range checks {
				if got := happened(out); got != try.want {
					t.Errorf("%s by lib%s takes effect: %t, want %t\n%s", names[i], try.who, got, try.want, out.Stdout)
				}
			}
			t.Logf("lib%s: %d calls\n%s", try.who, len(checks), out.Stderr)
		}
	}
}
