package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"bulkhead/internal/cfi"
	"bulkhead/internal/enforce/backend"
	"bulkhead/internal/enforce/denial"
	"bulkhead/internal/policy"
	"bulkhead/internal/testenv"
)

var fixtures *testenv.Fixtures

func TestMain(m *testing.M) {
	if file := os.Getenv(asWrapper); file != "" {
		os.Unsetenv(asWrapper)
		os.Exit(wrap(file, os.Args[1:]))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	var err error
	if fixtures, err = testenv.NewFixtures(); err == nil {
		defer fixtures.Close()
		err = os.Chmod(fixtures.Dir(), 0o755) // the programs run as another user
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// asWrapper makes this test binary run a command under the policy file that it names, as an ordinary user.
const asWrapper = "BULKHEAD_TEST_POLICY"

func wrap(file string, argv []string) int {
	p, err := policy.Load(file)
	if err == nil {
		var status *syscall.WaitStatus
		log := denial.NewLog(func(text string) { fmt.Fprintln(os.Stderr, text) }, nil)
		cache, _ := cfi.OpenCache(filepath.Join(filepath.Dir(file), "rows"))
		status, err = Command(context.Background(), argv[0], argv, nil, backend.Options{
			Policy: p, Denied: log.Add, Cache: cache,
			Log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, "note: "+format+"\n", args...) },
		})
		if err == nil && status.Signaled() {
			return 128 + int(status.Signal())
		}
		if err == nil {
			return status.ExitStatus()
		}
	}
	fmt.Fprintln(os.Stderr, "wrapper:", err)
	return ownFailure
}

// ownFailure is the wrapper's status where the command could not be supervised.
const ownFailure = 125

// nobody is an ordinary user.
const nobody = 65534

// outcome is how a supervised command ended.
type outcome struct {
	status         int
	stdout, stderr string
	dir            string // where it ran
}

// supervise runs a command under a policy as an ordinary user, in an empty folder.
func supervise(t *testing.T, rules string, argv ...string) outcome {
	t.Helper()
	c := supervised(t, rules, argv...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{c.ProcessState.ExitCode(), stdout.String(), stderr.String(), c.Dir}
}

func supervised(t *testing.T, rules string, argv ...string) *exec.Cmd {
	t.Helper()
	dir, err := os.MkdirTemp(fixtures.Dir(), "run")
	if err == nil {
		err = errors.Join(os.Chown(dir, nobody, nobody), os.WriteFile(filepath.Join(dir, "policy"), []byte(rules), 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, "/proc/self/exe", argv...)
	c.Dir = dir
	c.Env = append(os.Environ(), asWrapper+"="+filepath.Join(dir, "policy"), "HOME="+dir, "TMPDIR="+dir)
	if os.Geteuid() == 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return c
}

func build(t *testing.T, name, compiler string) string {
	t.Helper()
	return fixtures.Build(t, name, compiler)
}

// policyText is a policy of one program: lines of compartments, each "NAME: CALL CALL…", with what programs need to start and
// to end in the baseline.
func policyText(program, head, baseline string, compartments ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "schema = %q\n%s\n[baseline]\nallow = [%s]\n[[program]]\npath = %q\n", policy.Schema, head, quoted(startup+" "+baseline), program)
	for _, c := range compartments {
		name, calls, _ := strings.Cut(c, ":")
		fmt.Fprintf(&b, "[[program.compartment]]\nname = %q\nallow = [%s]\n", name, quoted(calls))
	}
	return b.String()
}

const startup = "read close fstat newfstatat mmap munmap mprotect brk pread64 arch_prctl set_tid_address set_robust_list rseq " +
	"prlimit64 getrandom access openat exit_group exit rt_sigprocmask rt_sigaction futex"

func quoted(calls string) string {
	var out []string
	for _, c := range strings.Fields(calls) {
		out = append(out, fmt.Sprintf("%q", c))
	}
	return strings.Join(out, ", ")
}

const (
	doerLibrary  = "gcc -O2 -fPIC -shared testdata/doer.c"
	ownerLibrary = "gcc -O2 -fPIC -shared testdata/owner.c"
	effects      = "unlink rename chmod truncate mkdir kill sendto connect write execve"
)

// effectsPolicy allows all effects to the program itself, and some to its library.
func effectsPolicy(program, allowed string) string {
	needs := "wait4 clone pause nanosleep clock_nanosleep poll socket bind listen getsockname accept pipe2 rmdir"
	return policyText(program, `on-exec = "inherit"`, needs, "effects:"+effects, "libc.so.6:write", "libdoer.so:"+allowed,
		"touch:@file-system dup2 dup3 execve")
}

func waysPolicy(program string) string {
	return policyText(program, "", "write memfd_create clone clone3 vfork wait4 rt_sigreturn sigaltstack getpid gettid tgkill madvise "+
		"fcntl kill pause prctl seccomp ptrace getppid clock_gettime", "ways:mkdirat", "libowner.so:mkdir mkdirat")
}

// TestEffects: of ten denied calls of each kind none has an effect, and all of them have when they are allowed.
func TestEffects(t *testing.T) {
	dir := fixtures.Dir()
	build(t, "libdoer.so", doerLibrary)
	program := build(t, "effects", "gcc -O2 testdata/effects.c -L"+dir+" -ldoer -Wl,-rpath,"+dir)
	for _, c := range []struct {
		name, allowed string
		want          int
	}{{"denied", "", 0}, {"allowed", effects, 10}} {
		t.Run(c.name, func(t *testing.T) {
			out := supervise(t, effectsPolicy(program, c.allowed), program)
			lines := strings.Fields(out.stdout)
			if len(lines) != 24 || out.status != 0 {
				t.Fatalf("status %d:\n%s%s", out.status, out.stdout, out.stderr)
			}
			for i := 0; i < len(lines); i += 2 {
				if lines[i+1] != fmt.Sprint(c.want) {
					t.Errorf("%s: %s of 10 took effect, want %d\n%s", lines[i], lines[i+1], c.want, out.stderr)
				}
			}
		})
	}
}

// TestWaysAround tries what a library could do to be taken for another one.
func TestWaysAround(t *testing.T) {
	dir := fixtures.Dir()
	build(t, "libowner.so", ownerLibrary)
	program := build(t, "ways", "gcc -O2 -pthread testdata/ways.c -L"+dir+" -lowner -Wl,-rpath,"+dir)
	rules := waysPolicy(program)
	ways := map[string]bool{ // whether it works
		"direct": false, "jit": false, "later": false, "memfd": false, "int80": false, "x32": false, "uring": false,
		"thread": false, "vfork": false, "clone": false, "altstack": false, "context": false, "notcall": false, "overlib": false,
		"race": false, "ptrace": false, "written": false, "listener": false, "supervisor": false, "own": false,
		"allowed": true, // or the test would prove nothing
		"forged":  true, // docs/threat-model.md: what a stack-based origin cannot promise
	}
	for way, works := range ways {
		t.Run(way, func(t *testing.T) {
			out := supervise(t, rules, program, way, filepath.Join(dir, "libowner.so"))
			if out.status != 0 && out.status != 128+int(syscall.SIGSEGV) {
				t.Errorf("status %d:\n%s", out.status, out.stderr)
			}
			_, err := os.Stat(filepath.Join(out.dir, way))
			if made := err == nil; made != works {
				t.Errorf("made is %v, want %v\n%s%s", made, works, out.stdout, out.stderr)
			}
			// The kernel itself stops some, and int 0x80 may not be there at all.
			silent := way == "ptrace" || way == "supervisor" || way == "int80"
			if !works && !silent && !strings.Contains(out.stderr, "may not call") {
				t.Errorf("nothing is told:\n%s", out.stderr)
			}
		})
	}
}
