package testenv

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// GoModules builds the Go program in testdata/modules of this package with flags of go build, blanks between them, and
// returns its path: its main module is example.com/app, and of its vendored modules example.com/files reads files,
// example.com/dial talks over a network and example.com/run runs programs. With -tags misbehave, example.com/dial runs a
// program, too.
func (f *Fixtures) GoModules(t testing.TB, name, flags string) string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	return f.BuildGo(t, name, filepath.Join(filepath.Dir(here), "testdata", "modules"), flags)
}

// BuildGo builds the Go program in a folder, without cgo unless the flags have CGO_ENABLED=1 at their start, and without
// the network.
func (f *Fixtures) BuildGo(t testing.TB, name, folder, flags string) string {
	t.Helper()
	Tool(t, "go")
	out := filepath.Join(f.dir, name)
	key := strings.Join([]string{"go", out, folder, flags}, "\x00")
	once, _ := f.built.LoadOrStore(key, sync.OnceValue(func() error { return buildGo(out, folder, flags) }))
	if err := once.(func() error)(); err != nil {
		t.Fatal(err)
	}
	return out
}

func buildGo(out, folder, flags string) error {
	env := append(os.Environ(), "GOFLAGS=", "GOPROXY=off", "GOTOOLCHAIN=local", "CGO_ENABLED=0")
	words := strings.Fields(flags)
	if len(words) > 0 && words[0] == "CGO_ENABLED=1" {
		env, words = append(env, words[0]), words[1:]
	}
	var message bytes.Buffer
	cmd := exec.Command("go", append([]string{"build", "-o", out}, words...)...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = folder, env, &message, &message
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build in %s: %w: %s", folder, err, message.Bytes())
	}
	return nil
}
