package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bulkhead/internal/analysis"
	"bulkhead/internal/attribution"
)

// bulkheadBinary builds the command once for the tests that run it as root does.
func bulkheadBinary(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "bulkhead")
	if msg, err := exec.Command("go", "build", "-o", out, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, msg)
	}
	return out
}

// recorded returns the document of a traced command; it skips the test where this
// machine cannot trace.
func recorded(t *testing.T, binary string, command ...string) *attribution.Document {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out := filepath.Join(t.TempDir(), "trace.json")
	cmd := exec.CommandContext(ctx, binary, append([]string{"trace", "-o", "json", "--out", out, "--"}, command...)...)
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == exitOwnFailure {
		t.Skip("this machine cannot trace")
	}
	doc, err := attribution.ReadFile(out)
	if err != nil {
		t.Skipf("nothing was recorded: %v", err)
	}
	return doc
}

// uncovered lists the (compartment, system call) pairs of a traced program that
// the analysis of its files does not have. Libraries that the program opened by
// names which the analysis reported as open are given to it.
func uncovered(p *attribution.Program, cache *analysis.Cache) ([]string, error) {
	opts := analysis.Options{Summaries: cache}
	doc, err := analyzeProgram(p, opts)
	if err != nil {
		return nil, err
	}
	static := &doc.Programs[0]
	if len(static.Losses.OpenEnds) > 0 {
		for _, o := range p.Objects {
			if strings.HasPrefix(o.Path, "/") && !slices.ContainsFunc(static.Objects, func(s attribution.Object) bool { return s.Name == o.Name }) {
				opts.Loading.With = append(opts.Loading.With, o.Path)
			}
		}
		if doc, err = analyzeProgram(p, opts); err != nil {
			return nil, err
		}
		static = &doc.Programs[0]
	}
	var out []string
	for _, c := range p.Compartments {
		have := static.Compartment(c.Name)
		for _, s := range c.Syscalls {
			if have == nil || !slices.ContainsFunc(have.Syscalls, func(x attribution.Syscall) bool { return x.Name == s.Name && x.ABI == s.ABI }) {
				out = append(out, fmt.Sprintf("%s: %s %s", p.Path, c.Name, s.Name))
			}
		}
	}
	return out, nil
}

func analyzeProgram(p *attribution.Program, opts analysis.Options) (*attribution.Document, error) {
	r, err := analysis.Analyze(p.Path, opts)
	if err != nil {
		return nil, err
	}
	return r.Document(), nil
}

// TestAnalyzeCoversTrace traces commands and compares pair by pair. With
// BULKHEAD_SOUNDNESS=all it takes every ELF program of /usr/bin and /usr/sbin,
// run with --version.
func TestAnalyzeCoversTrace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("tracing needs root")
	}
	binary := bulkheadBinary(t)
	cache, err := analysis.OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	commands := [][]string{
		{"/usr/bin/ls", "-la", "/usr"},
		{"/usr/bin/curl", "-s", "http://localhost:1/"},
		{"/usr/bin/sqlite3", filepath.Join(dir, "x.db"), "create table t(a); insert into t values(1); select * from t;"},
		{"/usr/bin/python3", "-c", "import ssl, sqlite3, json"},
		{"/usr/bin/git", "init", "-q", filepath.Join(dir, "repository")},
		{"/usr/bin/gcc", "--version"},
		{"/usr/bin/redis-server", "--version"},
		{"/usr/sbin/nginx", "-v"},
	}
	if os.Getenv("BULKHEAD_SOUNDNESS") == "all" {
		commands = everyProgram(t)
	}
	for _, command := range commands {
		t.Run(filepath.Base(command[0]), func(t *testing.T) {
			if _, err := os.Stat(command[0]); err != nil {
				t.Skip(err)
			}
			doc := recorded(t, binary, command...)
			for i := range doc.Programs {
				missing, err := uncovered(&doc.Programs[i], cache)
				if err != nil {
					t.Errorf("%s: %v", doc.Programs[i].Path, err)
				}
				for _, m := range missing {
					t.Error("traced, not in the analysis:", m)
				}
			}
		})
	}
}

// notRun are programs that do more than print their version when asked to.
var notRun = []string{
	"agetty", "halt", "init", "kexec", "login", "poweroff", "reboot", "runlevel", "shutdown", "su", "sudo", "sulogin", "systemctl", "telinit",
}

func everyProgram(t *testing.T) [][]string {
	var out [][]string
	seen := map[string]bool{}
	for _, dir := range []string{"/usr/bin", "/usr/sbin"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			path, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name()))
			if err != nil || seen[path] || slices.Contains(notRun, e.Name()) {
				continue
			}
			seen[path] = true
			head := make([]byte, 4)
			if f, err := os.Open(path); err == nil {
				_, _ = f.Read(head)
				f.Close()
			}
			if string(head) == "\x7fELF" {
				out = append(out, []string{path, "--version"})
			}
		}
	}
	return out
}

func TestAnalyzeVerbs(t *testing.T) {
	program, err := filepath.EvalSymlinks("/usr/bin/ls")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", dir)
	doc := filepath.Join(dir, "ls.json")
	for _, test := range []struct {
		args   []string
		status int
	}{
		{[]string{"analyze", "--out", doc, program}, 0},
		{[]string{"explain", doc, filepath.Base(program), "openat"}, 0},
		{[]string{"explain", program, filepath.Base(program), "openat"}, 0},
		{[]string{"explain", doc, filepath.Base(program), "init_module"}, 1},
		{[]string{"explain", doc, "no-such-library.so", "openat"}, exitUsage},
		{[]string{"explain", doc, filepath.Base(program), "no_such_call"}, exitUsage},
		{[]string{"diff", doc, program}, 0},
		{[]string{"diff", program, "/usr/bin/curl"}, 1},
		{[]string{"analyze", "/no/such/program"}, exitUsage},
		{[]string{"analyze", "/etc/passwd"}, exitUsage},
		{[]string{"analyze"}, exitUsage},
	} {
		if test.args[0] == "diff" {
			if _, err := os.Stat(test.args[2]); err != nil {
				continue
			}
		}
		root := rootCommand()
		root.SetArgs(test.args)
		if got := run(root); got != test.status {
			t.Errorf("bulkhead %s: status %d, want %d", strings.Join(test.args, " "), got, test.status)
		}
	}
}
