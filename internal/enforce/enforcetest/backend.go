package enforcetest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"bulkhead/internal/testenv"
)

// Backend is a backend under test.
type Backend struct {
	// Govern runs a command under the text of a policy.
	Govern func(t *testing.T, rules string, command ...string) Outcome
	// UID is the user that the command runs as.
	UID int
	// Late: calls are denied in hooks within the kernel, behind the errors that it finds before them.
	Late bool

	Fixtures *testenv.Fixtures
}

// Outcome is how a command under a policy ended.
type Outcome struct {
	Status int // 128 and the signal
	Stdout string
	Stderr string // with the denials
}

// Prebuilt is the folder of the fixtures in a virtual machine, where there is no compiler.
var Prebuilt = os.Getenv("BULKHEAD_TEST_FIXTURES")

const (
	sources = "../enforcetest/testdata/"
	library = "gcc -O2 -fPIC -shared -fomit-frame-pointer -fno-optimize-sibling-calls "
)

// build compiles a program or a library of the package's sources.
func (b *Backend) build(t *testing.T, name, compiler string) string {
	t.Helper()
	if Prebuilt != "" {
		return filepath.Join(Prebuilt, name)
	}
	return b.Fixtures.Build(t, name, compiler)
}

// Two builds the program with two libraries: two WHO CALL FILE...
func (b *Backend) Two(t *testing.T) string {
	t.Helper()
	for _, lib := range []string{"a", "b"} {
		b.build(t, "lib"+lib+".so", library+"-Wl,-soname,lib"+lib+".so -DLIB="+lib+" "+sources+"calls.c")
	}
	return b.build(t, "two", fmt.Sprintf("gcc -O2 %stwo.c %[2]s/liba.so %[2]s/libb.so -Wl,-rpath,$ORIGIN", sources, b.Fixtures.Dir()))
}

// Nothing builds a program that does nothing, to be executed.
func (b *Backend) Nothing(t *testing.T) string {
	t.Helper()
	return b.build(t, "nothing", "gcc -O2 "+sources+"nothing.c")
}

// Escapes builds the program that tries ways around, with libb and a plugin: escapes WAY FILE
func (b *Backend) Escapes(t *testing.T) (program, plugin string) {
	t.Helper()
	b.Two(t)
	plugin = b.build(t, "libplugin.so", library+"-DLIB=p "+sources+"calls.c")
	return b.build(t, "escapes", fmt.Sprintf("gcc -O2 -Wno-unused-result -pthread %sescapes.c %s/libb.so -Wl,-rpath,$ORIGIN",
		sources, b.Fixtures.Dir())), plugin
}

// folder makes one that belongs to the command's user.
func (b *Backend) folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(b.Fixtures.Dir(), "folder")
	if err != nil {
		t.Fatal(err)
	}
	b.own(t, dir)
	return dir
}

// own gives a file to the command's user.
func (b *Backend) own(t *testing.T, path string) {
	t.Helper()
	if os.Geteuid() != b.UID {
		if err := os.Chown(path, b.UID, b.UID); err != nil {
			t.Fatal(err)
		}
	}
}
