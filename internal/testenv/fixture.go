package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Require skips a test that needs what err says is missing, such as a probe's error; nil is nothing. With CI set in the
// environment the test fails instead: there it has to run.
func Require(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case os.Getenv("CI") != "":
		t.Fatal(err)
	default:
		t.Skip(err)
	}
}

// Tool returns the path of a program that a test runs. Without it the test is skipped, and fails with CI set.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Require(t, fmt.Errorf("%s is missing: this test runs it", name))
	}
	return path
}

// Fixtures builds test programs into one folder, each once. Make it in TestMain, so that all tests of a package share it.
type Fixtures struct {
	dir   string
	built sync.Map // output and command → func() error
}

// NewFixtures returns a builder with a new temporary folder. Close removes it.
func NewFixtures() (*Fixtures, error) {
	dir, err := os.MkdirTemp("", "bulkhead-fixtures-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for fixtures: %w", err)
	}
	return &Fixtures{dir: dir}, nil
}

// Close removes all that was built.
func (f *Fixtures) Close() error { return os.RemoveAll(f.dir) }

// Dir is the folder of the builds.
func (f *Fixtures) Dir() string { return f.dir }

// Build runs a compiler, its words separated by blanks, with "-o" and the output added, and returns the output's path.
// name is relative to the fixtures' folder.
func (f *Fixtures) Build(t testing.TB, name, command string) string {
	t.Helper()
	compiler, _, _ := strings.Cut(command, " ")
	Tool(t, compiler)
	out := filepath.Join(f.dir, name)
	command += " -o " + out
	once, _ := f.built.LoadOrStore(command, sync.OnceValue(func() error { return compile(command, out) }))
	if err := once.(func() error)(); err != nil {
		t.Fatal(err)
	}
	return out
}

func compile(command, out string) error {
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	words := strings.Fields(command)
	if said, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, said)
	}
	return nil
}
