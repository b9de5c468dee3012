package analysis

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// flags makes calls that depend on parameters, which callers hand over as constants,
// through a second function, or not at all.
const flags = `#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#define apart __attribute__((noipa))
apart int equal(int how) { return how == 2 ? umask(022) : 0; }
apart int either(long x, char sure) { return sure ? setsid() : x; }
apart int forwarded(int x, int y, int how) { return how > 4 ? getppid() : x + y; }
apart int passes(int how) { return forwarded(1, 2, how); }
apart int spilled(int how) { char b[64]; getcwd(b, sizeof b); return how ? chroot(b) : b[0]; }
apart int pointed(int how) { return how ? chdir("/") : 0; }
int (*volatile at)(int) = pointed;
int main(int argc, char **argv) {
	if (getenv("NEVER") == (char *)-1) sync();
	(void)argv;
	return equal(A) + either(argc, B) + passes(C) + spilled(D) + at(0);
}`

// TestParameters checks that calls wait for the values of parameters that they
// depend on, and for no others.
func TestParameters(t *testing.T) {
	all := []string{"umask", "setsid", "getppid", "chroot"}
	for _, x := range []struct {
		name string
		args []string // A to D
		want []string
	}{
		{"none", []string{"0", "0", "4", "0"}, nil},
		{"equal", []string{"2", "0", "4", "0"}, []string{"umask"}},
		{"byte", []string{"0", "1", "4", "0"}, []string{"setsid"}},
		{"forwarded", []string{"0", "0", "5", "0"}, []string{"getppid"}},
		{"spilled", []string{"0", "0", "4", "7"}, []string{"chroot"}},
		{"unknown", []string{"argc", "argc", "argc", "argc"}, all},
		{"large", []string{"0", "1 << 20", "1 << 20", "1 << 20"}, []string{"getppid", "chroot"}},
	} {
		for _, opt := range []string{"-O0", "-O2"} {
			if opt == "-O0" && x.name != "unknown" {
				continue
			}
			t.Run(x.name+opt, func(t *testing.T) {
				if _, err := exec.LookPath("gcc"); err != nil {
					t.Skip(err)
				}
				out := filepath.Join(t.TempDir(), "flags")
				args := []string{opt, "-x", "c", "-", "-o", out}
				for i, a := range x.args {
					args = append(args, "-D"+string(rune('A'+i))+"="+a)
				}
				cmd := exec.Command("gcc", args...)
				cmd.Stdin = strings.NewReader(flags)
				if msg, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("gcc: %v\n%s", err, msg)
				}
				p := analyzed(t, out)
				for _, name := range all {
					has, want := slices.Contains(p.Union, name), slices.Contains(x.want, name)
					if want && !has || opt == "-O2" && has && !want {
						t.Errorf("%s: %t, want %t", name, has, want)
					}
				}
				if !slices.Contains(p.Union, "chdir") {
					t.Error("without chdir, which a function called through a pointer makes")
				}
				if opt == "-O2" && slices.Contains(p.Union, "sync") {
					t.Error("sync is behind a comparison that never holds")
				}
				if m := missing(p, strace(t, out)); len(m) > 0 {
					t.Errorf("without %v, which it makes", m)
				}
			})
		}
	}
}

// TestServicesByName checks that name services are entered by what is looked up.
func TestServicesByName(t *testing.T) {
	for _, x := range []struct {
		source string
		hosts  bool
	}{
		{"#include <pwd.h>\nint main(void) { return getpwuid(0) == 0; }", false},
		{"#include <netdb.h>\nint main(void) { struct addrinfo *a; return getaddrinfo(\"localhost\", 0, 0, &a); }", true},
		{"#include <netdb.h>\nint main(void) { return gethostbyname(\"localhost\") == 0; }", true},
	} {
		if _, err := exec.LookPath("gcc"); err != nil {
			t.Skip(err)
		}
		out := filepath.Join(t.TempDir(), "lookup")
		cmd := exec.Command("gcc", "-O2", "-x", "c", "-", "-o", out)
		cmd.Stdin = strings.NewReader(x.source)
		if msg, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, msg)
		}
		p := analyzed(t, out)
		if has := slices.Contains(p.Union, "sendmmsg"); has != x.hosts {
			t.Errorf("asks name servers (sendmmsg): %t, want %t:\n%s", has, x.hosts, x.source)
		}
		if m := missing(p, strace(t, out)); len(m) > 0 {
			t.Errorf("without %v, which it makes:\n%s", m, x.source)
		}
	}
}
