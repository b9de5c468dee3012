package analysis

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulkhead/internal/attribution"
	"bulkhead/internal/dso"
)

// asm is a function that makes one system call.
const asm = `#define CALL(name, nr) long name(void) { long r; __asm__ volatile("syscall" : "=a"(r) : "a"(nr) : "rcx", "r11", "memory"); return r; }
`

// A tree is a file system of objects without a C library.
type tree struct {
	t    *testing.T
	root string
}

// link compiles source into the object at path.
func (r tree) link(path, source string, flags ...string) {
	r.t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		r.t.Skip(err)
	}
	out := filepath.Join(r.root, path)
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		r.t.Fatal(err)
	}
	args := []string{"-O1", "-nostdlib", "-fPIC", "-fno-stack-protector", "-x", "c", "-", "-x", "none", "-o", out + ".new"}
	cmd := exec.Command(gcc, append(args, flags...)...)
	cmd.Stdin = strings.NewReader(asm + source)
	if msg, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("gcc: %v\n%s", err, msg)
	}
	if err := os.Rename(out+".new", out); err != nil { // as package managers do
		r.t.Fatal(err)
	}
}

func (r tree) library(path, source string) {
	r.t.Helper()
	r.link(path, source, "-shared", "-Wl,-soname,"+filepath.Base(path))
}

func (r tree) file(path, text string) {
	r.t.Helper()
	out := filepath.Join(r.root, path)
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(out, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func encoded(t *testing.T, d *attribution.Document) string {
	t.Helper()
	var b strings.Builder
	if err := d.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestRecall changes one by one what an analysis depends on: the document must be
// what an analysis finds now, and come from the cache as long as nothing changes.
func TestRecall(t *testing.T) {
	r := tree{t, t.TempDir()}
	r.library("lib/ld.so", "void _start(void) {}")
	r.library("lib/liba.so", "CALL(f, 39)\nvoid *dlopen(const char *n, int f) { return 0; }\nconst char *text(void) { return \"services\"; }")
	r.link("bin/p", `long f(void); void *dlopen(const char *, int); const char *text(void);
void _start(void) { f(); text(); dlopen("libplug.so", 1); }`, filepath.Join(r.root, "lib/liba.so"), "-Wl,--dynamic-linker=/lib/ld.so")
	cache, err := OpenCache(filepath.Join(t.TempDir(), "cache"))
	if err != nil {
		t.Fatal(err)
	}
	opts := Options{
		Summaries: cache,
		Loading:   dso.Options{Sysroot: r.root},
		Plugins: Plugins{
			{Name: "services", Object: "liba.so", String: "services", Load: []string{"libservice_{nsswitch}.so", "extra/*.so"}},
		},
	}
	steps := []struct {
		name   string
		change func()
		want   string // a call that is there then, in the union
	}{
		{"at first", func() {}, "getpid"},
		{"library replaced", func() {
			r.library("lib/liba.so", "CALL(f, 110)\nvoid *dlopen(const char *n, int f) { return 0; }\nconst char *text(void) { return \"services\"; }")
		}, "getppid"},
		{"library to open installed", func() { r.library("lib/libplug.so", "CALL(g, 102)") }, "getuid"},
		{"service installed", func() { r.library("lib/libservice_files.so", "CALL(g, 104)") }, "getgid"},
		{"another service", func() { r.library("lib/libservice_other.so", "CALL(g, 107)") }, ""},
		{"configuration changed", func() { r.file("etc/nsswitch.conf", "passwd: other\n") }, "geteuid"},
		{"folder filled", func() { r.library("lib/extra/one.so", "CALL(g, 108)") }, "getegid"},
		{"library to open replaced", func() { r.library("lib/libplug.so", "CALL(g, 24)") }, "sched_yield"},
		{"options changed", func() { opts.LeaveOut = true }, "sched_yield"},
		{"library removed", func() { os.Remove(filepath.Join(r.root, "lib/libplug.so")) }, "getppid"},
	}
	for _, step := range steps {
		step.change()
		got, err := Document("/bin/p", opts)
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		fresh, err := Analyze("/bin/p", Options{Loading: opts.Loading, Plugins: opts.Plugins, LeaveOut: opts.LeaveOut})
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		want := encoded(t, fresh.Document())
		if diff := cmp.Diff(want, encoded(t, got)); diff != "" {
			t.Errorf("%s: not what an analysis finds:\n%s", step.name, diff)
		}
		if step.want != "" && !strings.Contains(want, `"`+step.want+`"`) {
			t.Errorf("%s: the analysis does not find %s in\n%s", step.name, step.want, want)
		}
		again := recall("/bin/p", &opts)
		if again == nil {
			t.Errorf("%s: nothing is recalled", step.name)
		} else if diff := cmp.Diff(want, encoded(t, again)); diff != "" {
			t.Errorf("%s: recalled another document:\n%s", step.name, diff)
		}
	}
}
