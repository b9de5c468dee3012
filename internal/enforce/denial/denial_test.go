package denial

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulkhead/internal/attribution"
)

func example() *Denial {
	return &Denial{
		Time: 7, PID: 11, TID: 12, Action: Denied, Errno: "EPERM",
		Program: "/usr/bin/server", ProgramBuildID: "aa", Arch: attribution.AMD64, Compartment: "liba.so",
		Call: attribution.Call{ABI: attribution.AMD64, NR: 59, Name: "execve"},
		Args: []string{`"/bin/sh"`, "0x7ffc00", "NULL"},
		Stack: []Frame{
			{Path: "/lib/libc.so.6", Compartment: "libc.so.6", Conduit: true, Function: "execve", Offset: 11},
			{Path: "/lib/liba.so", Compartment: "liba.so", Function: "spawn", Offset: 31},
			{Path: "/usr/bin/server", BuildID: "aa", Compartment: "server", Offset: 0x1020},
		},
		Whole: true, Decided: "server.policy:17", Remedy: `server.policy:19: add "execve" to allow`,
	}
}

func TestText(t *testing.T) {
	want := `liba.so may not call execve("/bin/sh", 0x7ffc00, NULL): denied with EPERM (server, process 11)
  decided by server.policy:17; to allow it, server.policy:19: add "execve" to allow
  on libc.so.6 execve+0xb < liba.so spawn+0x1f < server+0x1020`
	if diff := cmp.Diff(want, example().Text()); diff != "" {
		t.Error(diff)
	}
	d := example()
	d.Action, d.Whole, d.Call.ABI = Killed, false, attribution.I386
	text := d.Text()
	for _, part := range []string{"i386:execve(", "the process was killed", " < ?"} {
		if !strings.Contains(text, part) {
			t.Errorf("%q has no %q", text, part)
		}
	}
}

// TestLog tells each kind of denial once, each denial in the lines, and all of it in the document.
func TestLog(t *testing.T) {
	var told []string
	var lines bytes.Buffer
	log := NewLog(func(s string) { told = append(told, s) }, &lines)
	for range 3 {
		log.Add(example())
	}
	other := example()
	other.Call = attribution.Call{ABI: attribution.AMD64, NR: 41, Name: "socket"}
	other.Stack, other.Whole = other.Stack[:1], false
	log.Add(other)
	n, err := log.Close()
	if n != 4 || err != nil {
		t.Errorf("%d denials, %v", n, err)
	}
	if len(told) != 3 || told[2] != "liba.so called execve 3 times: all denied" {
		t.Errorf("%q", told)
	}
	if got := strings.Count(lines.String(), "\n"); got != 4 {
		t.Errorf("%d lines", got)
	}
	var first map[string]any
	if err := json.NewDecoder(&lines).Decode(&first); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"action": "denied", "error": "EPERM", "compartment": "liba.so", "syscall": "execve", "decided": "server.policy:17",
	} {
		if first[key] != want {
			t.Errorf("%s: %v, want %v", key, first[key], want)
		}
	}
	checkDocument(t, log.Document())
}

func checkDocument(t *testing.T, d *attribution.Document) {
	t.Helper()
	if err := d.Validate(); err != nil {
		t.Fatal(err)
	}
	p := &d.Programs[0]
	calls := map[string]uint64{}
	for _, c := range p.Compartments {
		for _, s := range c.Syscalls {
			calls[c.Name+" "+s.Name] += s.Count
		}
	}
	if diff := cmp.Diff(map[string]uint64{"liba.so execve": 3, "[unknown] socket": 1}, calls); diff != "" {
		t.Error(diff)
	}
	if p.Complete || p.Losses.BrokenStacks != 1 {
		t.Errorf("losses %+v", p.Losses)
	}
}

func TestArguments(t *testing.T) {
	read := func(address uint64, limit int) (string, bool, error) {
		if address == 0x10 {
			return "/etc/passwd", true, nil
		}
		return strings.Repeat("a", limit), false, nil
	}
	minus100 := ^uint64(99)
	for _, c := range []struct {
		name string
		args [6]uint64
		want string
	}{
		{"openat", [6]uint64{minus100, 0x10, 0o2000001 | 0o100, 0o644}, `AT_FDCWD "/etc/passwd" O_WRONLY|O_CREAT|O_CLOEXEC 0644`},
		{"unlink", [6]uint64{0x20}, `"` + strings.Repeat("a", shownString) + `"…`},
		{"unlink", [6]uint64{0}, "NULL"},
		{"socket", [6]uint64{2, 1, 0}, "AF_INET 0x1 0"},
		{"kill", [6]uint64{^uint64(0), 9}, "-1 SIGKILL"},
		{"getppid", [6]uint64{1, 2, 3}, ""},
		{"mprotect", [6]uint64{0x1000, 4096, 5}, "0x1000 4096 PROT_READ|PROT_EXEC"},
		{"vmsplice", [6]uint64{1, 2}, "0x1 0x2 0x0 0x0 0x0 0x0"},
	} {
		if got := strings.Join(Arguments(c.name, c.args, read), " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestSignatures: every kind that a signature names is one, and every call exists.
func TestSignatures(t *testing.T) {
	for name, signature := range signatures {
		fields := strings.Fields(signature)
		if len(fields) > 6 {
			t.Errorf("%s has %d arguments", name, len(fields))
		}
		for _, kind := range fields {
			if kinds[kind] == nil {
				t.Errorf("%s: no kind %q", name, kind)
			}
		}
	}
}
