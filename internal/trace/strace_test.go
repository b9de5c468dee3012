package trace

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"bulkhead/internal/attribution"
	"bulkhead/internal/testenv"
)

// counts are calls by name, over all processes.
type counts map[string]uint64

func documentCounts(doc *attribution.Document) counts {
	n := counts{}
	for i := range doc.Programs {
		p := &doc.Programs[i]
		for j := range p.Compartments {
			for k := range p.Compartments[j].Syscalls {
				s := &p.Compartments[j].Syscalls[k]
				n[s.Name] += s.Count
			}
		}
	}
	return n
}

// straceCounts runs strace -f -c and corrects what it defines otherwise:
//
//   - The execve that starts the command is made by strace's own child. For us the program begins behind it.
//   - -c counts calls when they return. Those that never do are known from the source: see endless.
func straceCounts(t *testing.T, endless counts, command ...string) counts {
	t.Helper()
	table := filepath.Join(t.TempDir(), "table")
	strace := exec.Command(testenv.Tool(t, "strace"), append([]string{"-f", "-c", "-o", table}, command...)...)
	if said, err := strace.CombinedOutput(); err != nil {
		t.Fatalf("strace: %v: %s", err, said)
	}
	text, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	n := counts{}
	for line := range strings.Lines(string(text)) {
		// % time, seconds, usecs/call, calls, errors (may be empty), syscall
		fields := strings.Fields(line)
		if len(fields) < 5 || fields[len(fields)-1] == "total" {
			continue
		}
		if calls, err := strconv.ParseUint(fields[3], 10, 64); err == nil {
			n[fields[len(fields)-1]] += calls
		}
	}
	n["execve"]--
	for name, calls := range endless {
		n[name] += calls
	}
	maps.DeleteFunc(n, func(_ string, calls uint64) bool { return calls == 0 })
	return n
}

func compareCounts(t *testing.T, got, want counts) {
	t.Helper()
	names := slices.Sorted(maps.Keys(got))
	for name := range want {
		if _, ok := got[name]; !ok {
			names = append(names, name)
		}
	}
	var calls uint64
	for _, name := range names {
		calls += got[name]
		if got[name] != want[name] {
			t.Errorf("%s: %d calls, strace has %d", name, got[name], want[name])
		}
	}
	t.Logf("%d calls of %d kinds", calls, len(got))
}

// TestCountsEqualStrace on programs that make the same calls at each run.
func TestCountsEqualStrace(t *testing.T) {
	program, image := buildProcesses(t)
	folder := t.TempDir()
	for _, c := range []struct {
		name    string
		command []string
		endless counts
	}{
		// Three threads of the first process end by themselves. Processes: the first, 4 forked, 3 that run the image,
		// 2 of the daemon, 3 cloned, 2 that a thread leaves.
		{"processes", []string{program, image}, counts{"exit": 3, "exit_group": 15}},
		// The program and its vfork child.
		{"shapes", []string{fixtures.Build(t, "O2/shapes", "gcc -O2 -fomit-frame-pointer -pthread "+source("shapes.c"))},
			counts{"exit_group": 2}},
		// A static program has other first calls.
		{"static", []string{fixtures.Build(t, "static/shapes", "gcc -O2 -static -pthread "+source("shapes.c"))},
			counts{"exit_group": 2}},
		{"script", []string{script(t, folder)}, counts{"exit_group": 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := options(t)
			opts.EveryChain = false
			want := straceCounts(t, c.endless, c.command...)
			doc := run(t, opts, c.command...)
			checkComplete(t, doc)
			compareCounts(t, documentCounts(doc), want)
		})
	}
}

// script returns the path of a shell script that runs two programs.
func script(t *testing.T, folder string) string {
	t.Helper()
	path := filepath.Join(folder, "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n/bin/true\n/bin/echo >/dev/null\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// checkComplete: nothing is lost.
func checkComplete(t *testing.T, doc *attribution.Document) {
	t.Helper()
	for i := range doc.Programs {
		if p := &doc.Programs[i]; !p.Complete {
			t.Errorf("%s: losses: %+v", p.Path, p.Losses)
		}
	}
}

// TestFirstCalls: the first call behind the execve is counted. It is the loader's, or of a static program its own.
func TestFirstCalls(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			opts := options(t)
			program := fixtures.Build(t, v.name+"/shapes", v.compiler+" -pthread "+source("shapes.c"))
			var out bytes.Buffer
			opts.Stream = &out
			run(t, opts, program)
			got := streamed(t, &out)
			want := straceOrder(t, program)
			if len(got) < 5 || len(want) < 5 || !slices.Equal(got[:5], want[:5]) {
				t.Errorf("the first calls are %q, strace has %q", got[:min(5, len(got))], want[:min(5, len(want))])
			}
			if len(got) != len(want) {
				t.Errorf("%d calls, strace has %d", len(got), len(want))
			}
		})
	}
}

// streamed returns the names of the calls in the order of their times.
func streamed(t *testing.T, out io.Reader) []string {
	t.Helper()
	var calls []streamedCall
	for lines := json.NewDecoder(out); ; {
		var c streamedCall
		if err := lines.Decode(&c); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		calls = append(calls, c)
	}
	slices.SortStableFunc(calls, func(a, b streamedCall) int { return cmp.Compare(a.Time, b.Time) })
	names := make([]string, len(calls))
	for i, c := range calls {
		names[i] = c.Syscall
	}
	return names
}

// straceOrder returns the names of the calls behind the first execve as they begin.
func straceOrder(t *testing.T, command ...string) []string {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	strace := exec.Command(testenv.Tool(t, "strace"), append([]string{"-f", "-o", log}, command...)...)
	if said, err := strace.CombinedOutput(); err != nil {
		t.Fatalf("strace: %v: %s", err, said)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	begins := regexp.MustCompile(`(?m)^\d+ +([a-z_0-9]+)\(`)
	var names []string
	for _, match := range begins.FindAllStringSubmatch(string(text), -1) {
		names = append(names, match[1])
	}
	if len(names) == 0 || names[0] != "execve" {
		t.Fatalf("strace's log does not begin with execve: %q", names)
	}
	return names[1:]
}
