package trace

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"bulkhead/internal/attribution"
	"bulkhead/internal/cfi"
	"bulkhead/internal/kernel"
	"bulkhead/internal/testenv"
)

// fixtures builds the programs of testdata, cache keeps the rows of the system's libraries: for all tests of a run.
var (
	fixtures *testenv.Fixtures
	cache    *cfi.Cache
)

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	var err error
	if fixtures, err = testenv.NewFixtures(); err == nil {
		defer fixtures.Close()
		cache, err = cfi.OpenCache(filepath.Join(fixtures.Dir(), "rows"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

var canTrace = sync.OnceValue(func() error { return kernel.Require(kernel.Trace) })

// options follows children and walks every stack, so that what a test sees does not depend on what is sampled.
func options(t *testing.T) Options {
	t.Helper()
	testenv.Require(t, canTrace())
	return Options{Follow: true, EveryChain: true, Cache: cache, Log: t.Logf}
}

// run traces a command to its end.
func run(t *testing.T, opts Options, argv ...string) *attribution.Document {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	path, err := FindCommand(argv[0])
	if err != nil {
		t.Fatal(err)
	}
	result, err := Command(ctx, path, argv, nil, opts)
	if err != nil {
		t.Fatal(err)
	}
	if result.Status == nil {
		t.Fatalf("%s did not end", argv[0])
	}
	if *result.Status != 0 {
		t.Fatalf("%s: %v", argv[0], *result.Status)
	}
	if err := result.Document.Validate(); err != nil {
		t.Errorf("the document is not valid: %v", err)
	}
	return result.Document
}

// variants are the ways in which fixtures are compiled.
var variants = []struct {
	name, compiler, libc string
	shared               bool // libc and other libraries
}{
	{"O0", "gcc -O0", "glibc", true},
	{"O2", "gcc -O2 -fomit-frame-pointer", "glibc", true},
	{"O2-frame-pointer", "gcc -O2 -fno-omit-frame-pointer", "glibc", true},
	{"Os-no-pie", "gcc -Os -no-pie -fno-pic", "glibc", true},
	{"static", "gcc -O2 -static", "glibc", false},
	{"static-pie", "gcc -O2 -static-pie", "glibc", false},
	{"musl", "musl-gcc -O2", "musl", true},
	{"musl-static", "musl-gcc -O2 -static", "musl", false},
}

func source(name string) string { return filepath.Join("testdata", name) }

// TestShapes traces programs that need no library of their own, in all variants.
func TestShapes(t *testing.T) {
	for _, name := range []string{"shapes", "deep", "generated", "abis", "compat"} {
		for _, v := range variants {
			t.Run(name+"/"+v.name, func(t *testing.T) {
				if name == "compat" {
					testenv.RequireCompat(t)
				}
				opts := options(t)
				program := fixtures.Build(t, v.name+"/"+name, v.compiler+" -pthread "+source(name+".c"))
				expected := readExpectations(t, source(name+".c"), name, v.libc)
				expected.check(t, run(t, opts, program), v.shared)
			})
		}
	}
}

// TestLibraries traces a program and libraries that call each other.
func TestLibraries(t *testing.T) {
	for _, v := range variants {
		if !v.shared {
			continue
		}
		t.Run(v.name, func(t *testing.T) {
			opts := options(t)
			program := buildCallback(t, v.name, v.compiler)
			expected := readExpectations(t, source("callback.c"), "callback", v.libc)
			expected.check(t, run(t, opts, program), true)
		})
	}
}

func buildCallback(t *testing.T, variant, compiler string) string {
	dir := filepath.Join(fixtures.Dir(), variant)
	fixtures.Build(t, variant+"/libinner.so", compiler+" -fPIC -shared "+source("inner.c"))
	fixtures.Build(t, variant+"/libouter.so", compiler+" -fPIC -shared -pthread "+source("outer.c")+
		" -L"+dir+" -linner -Wl,-rpath,"+dir)
	return fixtures.Build(t, variant+"/callback", compiler+" "+source("callback.c")+
		" -L"+dir+" -louter -linner -Wl,-rpath,"+dir+" -pthread")
}

// TestPlugins traces a program that loads and drops libraries, whose files change under it.
func TestPlugins(t *testing.T) {
	opts := options(t)
	command := buildPlugins(t)
	expected := readExpectations(t, source("plugins.c"), "plugins", "glibc")
	expected.check(t, run(t, opts, command...), true)
}

// buildPlugins returns a command that can be run once: it moves its files.
func buildPlugins(t *testing.T) []string {
	t.Helper()
	program := fixtures.Build(t, "plugins", "gcc -O2 "+source("plugins.c")+" -ldl")
	folder := t.TempDir()
	for name, flags := range map[string]string{
		"plugin_a.so": "-DCALL=getppid() -DSTART=getpgid(0)",
		"plugin_b.so": "-DCALL=getuid() -DSTART=getsid(0)",
		"gone.so":     "-DCALL=geteuid()",
		"replaced.so": "-DCALL=times(0)",
	} {
		built := fixtures.Build(t, "plugins.d/"+name, "gcc -O2 -fPIC -shared "+flags+" "+source("plugin.c"))
		copyFile(t, built, filepath.Join(folder, name))
	}
	return []string{program, folder}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestFrameless traces generated code that keeps no frame, and a library in an anonymous memory file.
func TestFrameless(t *testing.T) {
	opts := options(t)
	plugin := fixtures.Build(t, "frameless.so", "gcc -O2 -fPIC -shared -DCALL=getuid() "+source("plugin.c"))
	program := fixtures.Build(t, "frameless", "gcc -O2 "+source("frameless.c"))
	expected := readExpectations(t, source("frameless.c"), "frameless", "glibc")
	expected.check(t, run(t, opts, program, plugin), true)
}

func TestExceptions(t *testing.T) {
	for _, v := range []struct{ name, compiler string }{{"O0", "g++ -O0"}, {"O2", "g++ -O2"}} {
		t.Run(v.name, func(t *testing.T) {
			opts := options(t)
			program := fixtures.Build(t, v.name+"/threads", v.compiler+" -pthread "+source("threads.cpp"))
			expected := readExpectations(t, source("threads.cpp"), "threads", "glibc")
			expected.check(t, run(t, opts, program), true)
		})
	}
}

func TestContexts(t *testing.T) {
	for _, v := range []struct{ name, compiler string }{{"O0", "gcc -O0"}, {"O2", "gcc -O2 -fomit-frame-pointer"}} {
		t.Run(v.name, func(t *testing.T) {
			opts := options(t)
			program := fixtures.Build(t, v.name+"/contexts", v.compiler+" "+source("contexts.c"))
			expected := readExpectations(t, source("contexts.c"), "contexts", "glibc")
			expected.check(t, run(t, opts, program), true)
		})
	}
}

// TestProcesses follows every way of making a process and a program image.
func TestProcesses(t *testing.T) {
	opts := options(t)
	program, image := buildProcesses(t)
	expected := readExpectations(t, source("processes.c"), "processes", "glibc")
	expected.check(t, run(t, opts, program, image), true)
}

func buildProcesses(t *testing.T) (program, image string) {
	return fixtures.Build(t, "processes", "gcc -O2 -pthread "+source("processes.c")),
		fixtures.Build(t, "image", "gcc -O2 "+source("image.c"))
}
