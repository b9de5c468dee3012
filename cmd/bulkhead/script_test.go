package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"bulkhead/internal/attribution"
	"bulkhead/internal/kernel"
	"bulkhead/internal/testenv"
)

// TestMain makes this test binary the program bulkhead too, for the scripts and the tests that run it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"bulkhead": main})
}

// TestScripts runs what works on every machine.
func TestScripts(t *testing.T) {
	t.Parallel()
	runScripts(t, "testdata/script")
}

// TestTraceScripts runs what traces.
func TestTraceScripts(t *testing.T) {
	t.Parallel()
	requireTrace(t)
	testenv.Tool(t, "gcc")
	runScripts(t, "testdata/trace")
}

// TestRunScripts runs what enforces without privileges.
func TestRunScripts(t *testing.T) {
	t.Parallel()
	testenv.Require(t, kernel.Require(kernel.Supervisor))
	testenv.Tool(t, "gcc")
	runScripts(t, "testdata/run")
}

func requireTrace(t *testing.T) {
	t.Helper()
	testenv.Require(t, kernel.Require(kernel.Trace))
}

// runScripts adds to testscript's commands those of this file. $PUBLIC is a folder that other users can read, with the
// program in it.
func runScripts(t *testing.T, dir string) {
	public, cache := publicProgram(t), t.TempDir()
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PUBLIC", public)
			env.Setenv("XDG_CACHE_HOME", cache) // shared: the rows of the system's libraries
			if goCache, err := goCache(); err == nil {
				env.Setenv("GOCACHE", goCache)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":     exits,
			"complains": complains,
			"document":  document,
			"calls":     calls,
			"chain":     chain,
			"lines":     lines,
		},
		RequireExplicitExec: true,
	})
}

// goCache is where the go command keeps what it has compiled, so that scripts need not compile the standard library anew.
func goCache() (string, error) {
	if dir := os.Getenv("GOCACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "go-build"), err
}

func publicProgram(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bulkhead-public-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "bulkhead"), program, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// status runs a command and returns what $? is after it in a shell.
func status(ts *testscript.TestScript, args []string) int {
	err := ts.Exec(args[0], args[1:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return shellStatus(exit.ProcessState)
	}
	ts.Check(err)
	return 0
}

func shellStatus(state *os.ProcessState) int {
	if s := state.Sys().(syscall.WaitStatus); s.Signaled() {
		return 128 + int(s.Signal())
	}
	return state.ExitCode()
}

// exits runs a command that has to exit with a status, 128 + n for signal n.
//
//	exits STATUS COMMAND [ARG...]
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND [ARG...]")
	}
	if got := status(ts, args[1:]); strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

// complains runs bulkhead, which has to fail with one line, matched by a pattern, and nothing else.
//
//	complains STATUS PATTERN COMMAND [ARG...]
func complains(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: complains STATUS PATTERN COMMAND [ARG...]")
	}
	exits(ts, false, append([]string{args[0]}, args[2:]...))
	line := regexp.MustCompile(`\Abulkhead: [^\n]*` + args[1] + `[^\n]*\n\z`)
	if said := ts.ReadFile("stderr"); !line.MatchString(said) {
		ts.Fatalf("stderr is not one line with %s", args[1])
	}
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("there is something on stdout")
	}
}

func readDocument(ts *testscript.TestScript, name string) *attribution.Document {
	d, err := attribution.ReadFile(ts.MkAbs(name))
	ts.Check(err)
	return d
}

// document checks that a file is a document without losses of just these programs, in this order.
//
//	document FILE PROGRAM...
func document(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: document FILE PROGRAM...")
	}
	d := readDocument(ts, args[0])
	var programs []string
	for _, p := range d.Programs {
		programs = append(programs, attribution.ObjectName(p.Path))
		if !p.Complete {
			ts.Fatalf("%s is not complete: %+v", p.Path, p.Losses)
		}
	}
	if got, want := len(programs), len(args)-1; got != want {
		ts.Fatalf("%d programs, want %d: %q", got, want, programs)
	}
	for i, want := range args[1:] {
		if programs[i] != want {
			ts.Fatalf("program %d is %s, want %s", i+1, programs[i], want)
		}
	}
}

// calls checks how often the programs of a document made a call in a compartment, and by which conduit's function.
//
//	calls FILE COMPARTMENT SYSCALL COUNT [VIA]
func calls(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 && len(args) != 5 {
		ts.Fatalf("usage: calls FILE COMPARTMENT SYSCALL COUNT [VIA]")
	}
	var count uint64
	var via []string
	for _, p := range readDocument(ts, args[0]).Programs {
		for _, c := range p.Compartments {
			for _, s := range c.Syscalls {
				if c.Name == args[1] && s.Name == args[2] {
					count += s.Count
					via = append(via, s.Via...)
				}
			}
		}
	}
	if strconv.FormatUint(count, 10) != args[3] {
		ts.Fatalf("%s made %d calls of %s, want %s", args[1], count, args[2], args[3])
	}
	if len(args) == 5 && (len(via) != 1 || via[0] != args[4]) {
		ts.Fatalf("%s made %s via %q, want %q", args[1], args[2], via, args[4])
	}
}

// chain checks that a call was seen, or not, with just these compartments on its stack.
//
//	[!] chain FILE SYSCALL COMPARTMENT...
func chain(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: [!] chain FILE SYSCALL COMPARTMENT...")
	}
	want, _ := json.Marshal(args[2:])
	found := false
	for _, p := range readDocument(ts, args[0]).Programs {
		for _, c := range p.Chains {
			got, _ := json.Marshal(c.Compartments)
			for _, name := range c.Syscalls {
				found = found || name == args[1] && bytes.Equal(got, want)
			}
		}
	}
	if found == neg {
		ts.Fatalf("found is %t", found)
	}
}

// lines checks that each line of a file is one call of a stream, and how many are of a compartment and system call.
//
//	lines FILE COMPARTMENT SYSCALL COUNT
func lines(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: lines FILE COMPARTMENT SYSCALL COUNT")
	}
	count := 0
	for line := range bytes.Lines([]byte(ts.ReadFile(args[0]))) {
		var call struct {
			Time                      uint64
			PID, TID, NR              *int
			Program, Compartment, Via string
			ABI, Syscall              string
		}
		decoder := json.NewDecoder(bytes.NewReader(line))
		decoder.DisallowUnknownFields()
		ts.Check(decoder.Decode(&call))
		if _, err := decoder.Token(); err != io.EOF {
			ts.Fatalf("a line holds more than an object: %s", line)
		}
		if call.Time == 0 || call.PID == nil || call.TID == nil || call.NR == nil || call.Program == "" || call.ABI == "" {
			ts.Fatalf("a line lacks something: %s", line)
		}
		if call.Compartment == args[1] && call.Syscall == args[2] {
			count++
		}
	}
	if strconv.Itoa(count) != args[3] {
		ts.Fatalf("%d lines of %s in %s, want %s", count, args[2], args[1], args[3])
	}
}
