package dso

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestClosureAgreesWithLoader compares with what ld.so itself says it loads.
func TestClosureAgreesWithLoader(t *testing.T) {
	line := regexp.MustCompile(`=> (/\S+) \(0x|^\s*(/\S+) \(0x`)
	for _, name := range []string{"ls", "redis-server", "nginx", "curl", "python3", "git", "gdb", "sqlite3"} {
		t.Run(name, func(t *testing.T) {
			program, err := exec.LookPath(name)
			if err != nil {
				t.Skip(err)
			}
			out, err := exec.Command("ldd", program).Output()
			if err != nil {
				t.Skipf("ldd %s: %v", program, err)
			}
			var want []string
			for l := range strings.Lines(string(out)) {
				if m := line.FindStringSubmatch(l); m != nil {
					p, err := filepath.EvalSymlinks(m[1] + m[2])
					if err != nil {
						t.Fatal(err)
					}
					want = append(want, p)
				}
			}
			objects, missing, err := Closure(program, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if len(missing) != 0 {
				t.Errorf("missing: %v", missing)
			}
			var got []string
			for _, o := range objects[1:] {
				got = append(got, o.Path)
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("Closure = %v\nld.so loads %v", got, want)
			}
		})
	}
}

// TestResolve checks that no link leads out of the root.
func TestResolve(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"usr/lib", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"lib":         "usr/lib",
		"usr/abs":     "/etc",
		"usr/out":     "../../../../etc",
		"usr/loop":    "loop",
		"usr/lib/via": "/usr/abs/passwd",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r := newRoot(dir)
	for _, test := range []struct{ in, want string }{
		{"/lib", "/usr/lib"},
		{"/usr/abs/passwd", "/etc/passwd"},
		{"/usr/out/passwd", "/etc/passwd"},
		{"/lib/via", "/etc/passwd"},
		{"/../../etc/passwd", "/etc/passwd"},
		{"/usr/loop", ""},
		{"/etc/shadow", ""},
	} {
		got, err := r.resolve(test.in)
		if got != test.want || (err != nil) != (test.want == "") {
			t.Errorf("resolve(%s) = %q, %v, want %q", test.in, got, err, test.want)
		}
	}
}

func TestSearchOrder(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	build := func(out, source string, args ...string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, out)), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(gcc, append([]string{"-x", "c", "-", "-o", filepath.Join(dir, out), "-Wl,--no-as-needed"}, args...)...)
		cmd.Stdin = strings.NewReader(source)
		cmd.Dir = dir
		if msg, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, msg)
		}
	}
	lib := func(out string, args ...string) {
		build(out, "int f(void){return 0;}", append(args, "-shared", "-fPIC", "-Wl,-soname,"+filepath.Base(out))...)
	}
	lib("a/liba.so")
	lib("b/liba.so")
	lib("plugins/libdeep.so")
	lib("b/libb.so", "-L"+dir+"/plugins", "-ldeep", "-Wl,-rpath,$ORIGIN/../plugins", "-Wl,--enable-new-dtags")
	const main = "int main(void){return 0;}"
	build("rpath", main, "-La", "-Lb", "-la", "-lb", "-Wl,-rpath,$ORIGIN/a:$ORIGIN/b", "-Wl,--disable-new-dtags")
	build("runpath", main, "-La", "-Lb", "-la", "-lb", "-Wl,-rpath,${ORIGIN}/a:${ORIGIN}/b", "-Wl,--enable-new-dtags")
	for _, test := range []struct {
		program string
		opts    Options
		want    string // of liba.so
	}{
		{"rpath", Options{}, "a/liba.so"},
		{"runpath", Options{}, "a/liba.so"},
		{"rpath", Options{LibraryPath: []string{dir + "/b"}}, "a/liba.so"},   // DT_RPATH comes first
		{"runpath", Options{LibraryPath: []string{dir + "/b"}}, "b/liba.so"}, // DT_RUNPATH comes after
		{"runpath", Options{Preload: []string{dir + "/b/liba.so"}}, "b/liba.so"},
	} {
		objects, missing, err := Closure(filepath.Join(dir, test.program), test.opts)
		if err != nil || len(missing) > 0 {
			t.Errorf("%s %+v: %v %v", test.program, test.opts, err, missing)
			continue
		}
		find := func(name string) string {
			for _, o := range objects {
				if o.Name == name {
					rel, _ := filepath.Rel(dir, o.Path)
					return rel
				}
			}
			return ""
		}
		if got := find("liba.so"); got != test.want {
			t.Errorf("%s %+v: liba.so is %q, want %q", test.program, test.opts, got, test.want)
		}
		if got := find("libdeep.so"); got != "plugins/libdeep.so" {
			t.Errorf("%s %+v: libdeep.so is %q", test.program, test.opts, got)
		}
	}
}

func TestMusl(t *testing.T) {
	muslGCC, err := exec.LookPath("musl-gcc")
	if err != nil {
		t.Skip(err)
	}
	program := filepath.Join(t.TempDir(), "hello")
	cmd := exec.Command(muslGCC, "-x", "c", "-", "-o", program)
	cmd.Stdin = strings.NewReader("int main(void){return 0;}")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("musl-gcc: %v\n%s", err, msg)
	}
	objects, missing, err := Closure(program, Options{})
	if err != nil || len(missing) > 0 {
		t.Fatal(err, missing)
	}
	if len(objects) != 2 || !objects[1].Interp {
		t.Errorf("objects %v, want the program and its loader, which is libc", objects)
	}
}

func FuzzCache(f *testing.F) {
	if data, err := os.ReadFile("/etc/ld.so.cache"); err == nil && len(data) < 1<<20 {
		f.Add(data)
	}
	f.Add([]byte(cacheMagicNew))
	f.Add(append([]byte(cacheMagicOld), make([]byte, 64)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := parseCache(data)
		if err != nil && len(entries) > 0 {
			t.Error("entries beside an error")
		}
	})
}
