package analysis

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const codecOld = `#include <string.h>
#include <unistd.h>
typedef int (*handler)(const char *);
static int show(const char *s) { return (int)write(1, s, strlen(s)); }
static handler table[4] = { show, show, show, show };
int codec_decode(const char *s, int i) { return table[i & 3](s); }
int codec_version(void) { return 1; }`

const codecNew = `#include <string.h>
#include <unistd.h>
typedef int (*handler)(const char *);
static int show(const char *s) { return (int)write(1, s, strlen(s)); }
static int run(const char *s) { char *const argv[] = { (char *)s, 0 }; return execve(s, argv, argv); }
static handler table[4] = { show, show, show, run };
int codec_decode(const char *s, int i) { return table[i & 3](s); }
int codec_version(void) { return 2; }`

func library(t *testing.T, source string) *Result {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip(err)
	}
	out := filepath.Join(t.TempDir(), "libcodec.so.1")
	cmd := exec.Command(gcc, "-O2", "-shared", "-fPIC", "-x", "c", "-", "-o", out)
	cmd.Stdin = strings.NewReader(source)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, msg)
	}
	if is, err := IsLibrary(out); err != nil || !is {
		t.Fatalf("IsLibrary(%s) = %t, %v", out, is, err)
	}
	r, err := Analyze(out, Options{Summaries: testCache})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestDiffLibraries finds an execve that came in behind a function pointer.
func TestDiffLibraries(t *testing.T) {
	before, after := library(t, codecOld), library(t, codecNew)
	changes := DiffLibraries(before, after)
	if len(changes) != 1 {
		t.Fatalf("changes %+v, want one", changes)
	}
	c := changes[0]
	if !c.Gained || c.Function != "codec_decode" || c.Syscall != "execve" || c.Danger != 3 {
		t.Errorf("change %+v, want codec_decode to gain execve of danger 3", c)
	}
	var path []string
	for _, f := range c.Path {
		path = append(path, f.Function)
	}
	if want := []string{"execve", "run", "codec_decode"}; !slices.Equal(path, want) {
		t.Errorf("path %v, want %v", path, want)
	}
	back := DiffLibraries(after, before)
	if len(back) != 1 || back[0].Gained {
		t.Errorf("the other way round: %+v, want one loss", back)
	}
	if same := DiffLibraries(before, before); len(same) > 0 {
		t.Errorf("a library and itself differ: %+v", same)
	}
}

func TestStem(t *testing.T) {
	for name, want := range map[string]string{
		"libz.so.1.2.13": "libz.so", "libc.so.6": "libc.so", "nginx": "nginx", "libmylib.so": "libmylib.so",
	} {
		if got := stem(name); got != want {
			t.Errorf("stem(%s) = %s, want %s", name, got, want)
		}
	}
}

// TestDiffLibrariesLoading finds what a new version does unasked: in a constructor, and in the resolver of an IFUNC, which
// is no function that anybody can call.
func TestDiffLibrariesLoading(t *testing.T) {
	const before = `int pad(int x) { return x + 1; }`
	const call = `static long call(long n) { long r;
		__asm__ volatile("syscall" : "=a"(r) : "a"(n) : "rcx", "r11", "memory"); return r; }`
	for name, after := range map[string]string{
		"constructor": call + before + `__attribute__((constructor)) static void start(void) { call(41); }`,
		"ifunc": call + `static int pad_any(int x) { return x + 1; }
			static int (*resolve(void))(int) { call(41); return pad_any; }
			int pad(int x) __attribute__((ifunc("resolve")));`,
	} {
		t.Run(name, func(t *testing.T) {
			changes := DiffLibraries(library(t, before), library(t, after))
			if len(changes) == 0 || !slices.ContainsFunc(changes, func(c Change) bool {
				return c.Gained && c.Function == Loading && c.Syscall == "socket" && len(c.Path) > 0
			}) {
				t.Errorf("changes %+v, want that loading gains socket", changes)
			}
			for _, c := range changes {
				if c.Function == "pad" {
					t.Errorf("pad itself does as before, but: %+v", c)
				}
			}
		})
	}
}
