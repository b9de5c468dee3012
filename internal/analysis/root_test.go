package analysis

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bulkhead/internal/dso"
)

// TestNeededLoops analyses programs whose libraries need each other, themselves, or
// more than there can be.
func TestNeededLoops(t *testing.T) {
	r := tree{t, t.TempDir()}
	lib := func(name string) string { return filepath.Join(r.root, "lib", name) }
	r.library("lib/ld.so", "void _start(void) {}")
	r.library("lib/libb.so", "CALL(b, 102)")
	r.library("lib/libself.so", "CALL(self, 104)")
	r.link("lib/liba.so", "long b(void), self(void); long a(void) { return b() + self(); }", "-shared", lib("libb.so"), lib("libself.so"), "-Wl,-soname,liba.so")
	r.link("lib/libself.so", "CALL(self, 104)", "-shared", "-Wl,--no-as-needed", lib("libself.so"), lib("liba.so"), "-Wl,-soname,libself.so")
	r.link("lib/libb.so", "long a(void); CALL(c, 107)\nlong b(void) { return a() + c(); }", "-shared", lib("liba.so"), lib("libself.so"), "-Wl,-soname,libb.so")
	r.link("bin/p", "long a(void); void _start(void) { a(); }", lib("liba.so"), "-Wl,--dynamic-linker=/lib/ld.so", "-Wl,--allow-shlib-undefined")
	start := time.Now()
	result, err := Analyze("/bin/p", Options{Loading: dso.Options{Sysroot: r.root}})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	if got, want := result.Union(), []string{"getgid", "geteuid"}; !slices.Equal(got, want) {
		t.Errorf("calls %v, want %v", got, want)
	}
	// A program with more entries than a process has room for.
	var flags []string
	r.library("lib/libx.so", "CALL(x, 24)")
	for i := range 5000 {
		name := fmt.Sprintf("lib/n%d.so", i)
		if err := os.Symlink("libx.so", filepath.Join(r.root, name)); err != nil {
			t.Fatal(err)
		}
		flags = append(flags, "-l:"+filepath.Base(name))
	}
	list := filepath.Join(r.root, "flags")
	r.file("flags", strings.Join(flags, "\n"))
	r.link("lib/libx.so", "CALL(x, 24)", "-shared")
	r.link("bin/many", "void _start(void) {}", "-Wl,--no-as-needed", "-L"+filepath.Join(r.root, "lib"), "-Wl,--dynamic-linker=/lib/ld.so", "-Wl,@"+list)
	_, err = Analyze("/bin/many", Options{Loading: dso.Options{Sysroot: r.root}})
	if err == nil || !strings.Contains(err.Error(), "more than 4096 objects") {
		t.Errorf("error %v, want that there are more than 4096 objects", err)
	}
}

// TestSparse reads a file that claims to be a terabyte.
func TestSparse(t *testing.T) {
	r := tree{t, t.TempDir()}
	r.link("p", "CALL(f, 39)\nvoid _start(void) { f(); }", "-static")
	path := filepath.Join(r.root, "p")
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Skip(err)
	}
	start := time.Now()
	d, err := Document(path, Options{Summaries: testCache})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 10*time.Second || !slices.Equal(d.Programs[0].Union, []string{"getpid"}) {
		t.Errorf("%v in %v", d.Programs[0].Union, took)
	}
}

// copyIn copies a file with what it loads into a root, under the paths that the
// program's loader looks for them.
func (r tree) copyIn(program string) {
	r.t.Helper()
	objects, missing, err := dso.Closure(program, dso.Options{Hwcaps: []string{}})
	if err != nil || len(missing) > 0 {
		r.t.Fatal(err, missing)
	}
	for i, o := range objects {
		names := o.RequestedAs
		if i == 0 {
			names = []string{program}
		}
		for _, name := range names {
			if !strings.HasPrefix(name, "/") {
				name = filepath.Join("/usr/lib", name)
			}
			r.copy(o.Path, name)
		}
	}
}

func (r tree) copy(from, to string) {
	r.t.Helper()
	in, err := os.Open(from)
	if err != nil {
		r.t.Fatal(err)
	}
	defer in.Close()
	to = filepath.Join(r.root, to)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		r.t.Fatal(err)
	}
	out, err := os.Create(to)
	if err == nil {
		_, err = io.Copy(out, in)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		r.t.Fatal(err)
	}
}

// TestSysroot analyses programs in unpacked images of glibc and musl: the result
// is that of the machine's own files, wherever the image is.
func TestSysroot(t *testing.T) {
	programs := map[string]string{"glibc": "/usr/bin/ls", "musl": build(t, "musl")}
	for name, program := range programs {
		t.Run(name, func(t *testing.T) {
			if _, err := os.Stat(program); err != nil {
				t.Skip(err)
			}
			r := tree{t, t.TempDir()}
			r.copyIn(program)
			opts := Options{Summaries: testCache, LeaveOut: true}
			outside, err := Document(program, opts)
			if err != nil {
				t.Fatal(err)
			}
			opts.Loading.Sysroot = r.root
			inside, err := Document(program, opts)
			if err != nil {
				t.Fatal(err)
			}
			p, q := &outside.Programs[0], &inside.Programs[0]
			if !slices.Equal(p.Union, q.Union) || len(p.Objects) != len(q.Objects) {
				t.Errorf("%d objects, calls %v\nin the image %d, %v", len(p.Objects), p.Union, len(q.Objects), q.Union)
			}
			for _, o := range q.Objects {
				if strings.HasPrefix(o.Path, r.root) {
					t.Errorf("the document says where the image is: %s", o.Path)
				}
			}
			if q.Path != program {
				t.Errorf("program %s, want %s", q.Path, program)
			}
			if err := exec.Command("mv", r.root+program, r.root+program+".x").Run(); err != nil {
				t.Fatal(err)
			}
			if _, err := Document(program, opts); err == nil {
				t.Error("a program that is not in the image is found outside")
			}
		})
	}
}
