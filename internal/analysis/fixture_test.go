package analysis

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"bulkhead/internal/attribution"
)

// fixtures are programs that the tests compile: source, compiler and arguments.
var fixtures = map[string][]string{
	"dynamic":     {hello, "gcc", "-O2"},
	"unoptimised": {hello, "gcc", "-O0"},
	"static":      {hello, "gcc", "-O2", "-static"},
	"static-pie":  {hello, "gcc", "-O2", "-static-pie"},
	"no-pie":      {callbacks, "gcc", "-O2", "-no-pie"},
	"callbacks":   {callbacks, "gcc", "-O2"},
	"stripped":    {callbacks, "gcc", "-O2", "-s"},
	"musl":        {hello, "musl-gcc", "-O2"},
	"musl-static": {hello, "musl-gcc", "-O2", "-static"},
	"threads":     {threads, "g++", "-O2", "-pthread"},
	"wrappers":    {wrappers, "gcc", "-O1"},
}

const hello = `#include <stdio.h>
int main(void) { puts("hello"); return 0; }`

// callbacks reaches system calls through a comparator, a table, a signal handler,
// an exit handler and a tail call.
const callbacks = `#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
static int compare(const void *a, const void *b) { getppid(); return *(int *)a - *(int *)b; }
static void handler(int s) { (void)s; umask(022); }
static void bye(void) { getsid(0); }
static int one(void) { return getpgid(0); }
static int two(void) { return sched_yield(); }
static int (*const table[])(void) = { one, two };
int sched_yield(void);
int main(int argc, char **argv) {
	int v[] = { 3, 1, 2 };
	(void)argv;
	atexit(bye);
	qsort(v, 3, sizeof *v, compare);
	signal(SIGUSR1, handler);
	raise(SIGUSR1);
	return table[argc & 1]() < 0;
}`

const threads = `#include <thread>
#include <iostream>
#include <stdexcept>
#include <sys/resource.h>
struct shape { virtual long area() = 0; virtual ~shape() {} };
struct square : shape { long area() override { struct rusage u; return getrusage(RUSAGE_SELF, &u); } };
int main(int argc, char **) {
	shape *s = new square;
	std::thread t([s] { std::cout << s->area() << std::endl; });
	t.join();
	try { if (argc) throw std::runtime_error("x"); } catch (std::exception &e) { std::cerr << e.what() << "\n"; }
	delete s;
}`

// wrappers hands system call numbers through two levels.
const wrappers = `#define _GNU_SOURCE
#include <unistd.h>
#include <sys/syscall.h>
__attribute__((noinline)) static long outer(long nr, int x) { return syscall(nr, x); }
__attribute__((noinline)) static long inner(int x, long nr) { return outer(nr, x); }
int main(int argc, char **argv) {
	(void)argv;
	inner(0, SYS_getpgid);
	outer(argc > 5 ? SYS_getsid : SYS_sched_yield, 0);
	return 0;
}`

// build compiles a fixture, or skips the test if its compiler is not there.
func build(t *testing.T, name string) string {
	t.Helper()
	f := fixtures[name]
	if _, err := exec.LookPath(f[1]); err != nil {
		t.Skip(err)
	}
	out := filepath.Join(t.TempDir(), name)
	lang := "c"
	if f[1] == "g++" {
		lang = "c++"
	}
	cmd := exec.Command(f[1], append(f[2:len(f):len(f)], "-x", lang, "-", "-o", out)...)
	cmd.Stdin = strings.NewReader(f[0])
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", f[1], err, msg)
	}
	return out
}

var straceLine = regexp.MustCompile(`^(?:\d+ +)?([a-z0-9_]+)\(`)

// strace returns the names of the system calls that a command makes, its exec
// left out.
func strace(t *testing.T, command ...string) []string {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command("strace", append([]string{"-f", "-qq", "-o", log, "--"}, command...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	_ = cmd.Run() // the command's own status does not matter
	data, err := os.ReadFile(log)
	if err != nil || len(data) == 0 {
		t.Skipf("strace recorded nothing: %v", err)
	}
	var names []string
	lines := bufio.NewScanner(bytes.NewReader(data))
	first := true
	for lines.Scan() {
		m := straceLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		if first && m[1] == "execve" {
			first = false
			continue
		}
		names = append(names, m[1])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// testCache is shared by the tests, so that libc is summarised once.
var testCache *Cache

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "bulkhead-analysis")
	if err == nil {
		testCache, err = OpenCache(dir)
	}
	if err != nil {
		panic(err)
	}
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

func analyzed(t *testing.T, path string) *attribution.Program {
	t.Helper()
	r, err := Analyze(path, Options{Summaries: testCache})
	if err != nil {
		t.Fatal(err)
	}
	d := r.Document()
	if err := d.Validate(); err != nil {
		t.Fatalf("document of %s: %v", path, err)
	}
	return &d.Programs[0]
}

// alias maps strace's names to the kernel's table.
var alias = map[string]string{"pread": "pread64", "pwrite": "pwrite64"}

func missing(p *attribution.Program, seen []string) []string {
	var out []string
	for _, name := range seen {
		if a, ok := alias[name]; ok {
			name = a
		}
		if !slices.Contains(p.Union, name) {
			out = append(out, name)
		}
	}
	return out
}

// TestFixturesSound compares what fixtures do with what the analysis says.
func TestFixturesSound(t *testing.T) {
	for name := range fixtures {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := build(t, name)
			p := analyzed(t, path)
			if m := missing(p, strace(t, path)); len(m) > 0 {
				t.Errorf("%d calls, without %v, which it makes", len(p.Union), m)
			}
		})
	}
}

// TestProgramsSound does so for programs of this machine that open nothing by
// computed names on the way.
func TestProgramsSound(t *testing.T) {
	dir := t.TempDir()
	for _, command := range [][]string{
		{"ls", "-la", "/usr"},
		{"curl", "-s", "file:///etc/passwd"},
		{"sqlite3", filepath.Join(dir, "x.db"), "create table t(a); insert into t values(1); select * from t;"},
		{"redis-server", "--version"},
		{"nginx", "-v"},
		{"git", "--version"},
		{"cc", "--version"},
		{"/usr/bin/python3", "-S", "-c", "print(1)"},
	} {
		t.Run(command[0], func(t *testing.T) {
			path, err := exec.LookPath(command[0])
			if err != nil {
				t.Skip(err)
			}
			if path, err = filepath.EvalSymlinks(path); err != nil {
				t.Fatal(err)
			}
			seen := strace(t, append([]string{path}, command[1:]...)...)
			if m := missing(analyzed(t, path), seen); len(m) > 0 {
				t.Errorf("without %v, which it makes", m)
			}
		})
	}
}

func TestWrappers(t *testing.T) {
	p := analyzed(t, build(t, "wrappers"))
	c := p.Compartment("wrappers")
	for _, want := range []string{"getpgid", "getsid", "sched_yield"} {
		if c == nil || !slices.ContainsFunc(c.Syscalls, func(s attribution.Syscall) bool { return s.Name == want }) {
			t.Errorf("the program is not charged with %s", want)
		}
	}
	if len(p.Losses.UnresolvedSites) > 0 {
		t.Errorf("unresolved: %v", p.Losses.UnresolvedSites)
	}
}

// TestConverters checks what plugins.toml says of glibc's character set modules.
func TestConverters(t *testing.T) {
	paths, _ := filepath.Glob("/usr/lib/x86_64-linux-gnu/gconv/*.so")
	if len(paths) == 0 {
		t.Skip("no character set modules")
	}
	harmless := []string{
		"__assert_fail", "abort", "malloc", "free", "strcmp", "__strcasecmp", "__rawmemchr", "memcpy", "memmove", "memset",
		"__stack_chk_fail", "__cxa_finalize", "__gmon_start__", "_dl_mcount_wrapper_check", "__gconv_transliterate",
		"_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable",
	}
	data := regexp.MustCompile(`_(to|from)_|_idx$|_tab$|to_ucs4?$|_tab\d+$`)
	for _, path := range paths {
		s, _, err := testCache.summary(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Sites) > 0 {
			t.Errorf("%s has system call instructions", path)
		}
		for _, im := range s.Imports {
			if !slices.Contains(harmless, im.Name) && !data.MatchString(im.Name) {
				t.Errorf("%s imports %s", path, im.Name)
			}
		}
	}
}

func TestGuardsParse(t *testing.T) {
	if len(guards()) == 0 {
		t.Error("no guards")
	}
	if _, err := LoadPlugins(t.TempDir()); err != nil {
		t.Error(err)
	}
}

// TestDeterministic compares two documents of one program, one without a cache.
func TestDeterministic(t *testing.T) {
	path := build(t, "threads")
	var docs [2]bytes.Buffer
	for i, opts := range []Options{{}, {Summaries: testCache}} {
		r, err := Analyze(path, opts)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Document().Write(&docs[i]); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(docs[0].Bytes(), docs[1].Bytes()) {
		t.Error("two runs give two documents")
	}
}

// TestGo analyses a Go program, plain and stripped.
func TestGo(t *testing.T) {
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(\"hello\") }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string]string{"plain": "", "stripped": "-s -w"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			cmd := exec.Command(goTool, "build", "-ldflags="+flags, "-o", path, source)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GO111MODULE=off")
			if msg, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("go build: %v\n%s", err, msg)
			}
			p := analyzed(t, path)
			if m := missing(p, strace(t, path)); len(m) > 0 {
				t.Errorf("without %v, which it makes", m)
			}
			if len(p.Union) > 44 || !p.Complete {
				t.Errorf("%d system calls, complete %t: %+v", len(p.Union), p.Complete, p.Losses)
			}
		})
	}
}
