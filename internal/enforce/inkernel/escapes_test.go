package inkernel

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/internal/policy"
	"bulkhead/internal/testenv"
)

// escapes builds the program that tries ways around, with libb and a plugin.
func escapes(t *testing.T) (program, plugin string) {
	t.Helper()
	two(t)
	plugin = fixtures.Build(t, "libplugin.so", "gcc -O2 -fPIC -shared -fomit-frame-pointer -fno-optimize-sibling-calls -DLIB=p testdata/calls.c")
	return fixtures.Build(t, "escapes", fmt.Sprintf("gcc -O2 -Wno-unused-result -pthread testdata/escapes.c %s/libb.so -Wl,-rpath,$ORIGIN", fixtures.Dir())), plugin
}

// escapesPolicy allows getppid to the libraries only.
func escapesPolicy(program, file, libraries string) string {
	return fmt.Sprintf(`schema = "bulkhead.policy/v1"
check = "origin"
on-violation = "kill"

[baseline]
allow = ["read", "write", "close", "fstat", "newfstatat", "mmap", "munmap", "brk", "arch_prctl", "set_tid_address",
	"set_robust_list", "rseq", "prlimit64", "getrandom", "pread64", "access", "exit", "exit_group", "wait4", "rt_sigprocmask",
	"rt_sigaction", "rt_sigreturn", "sigaltstack", "openat", "mprotect", "vfork", "fork", "clone", "clone3", "execve", "futex", "madvise",
	"memfd_create", "getpid", "gettid", "tgkill", "fcntl", "ioctl", "readlink"]

[[program]]
path = %q

[[program.compartment]]
name = "libraries"
match = %s
allow = ["getppid"]

[[program.compartment]]
name = "escapes"
allow = []

[[program]]
path = %q

[[program.compartment]]
name = "all"
match = ["*"]
allow = []
`, program, libraries, file)
}

const bothLibraries = `["libb.so", "libplugin.so"]`

// TestEscapes tries ways around the filter. None may work.
func TestEscapes(t *testing.T) {
	program, _ := escapes(t)
	for _, e := range []struct{ way, says string }{
		{"direct", "escapes may not call getppid"}, {"jit", "[anonymous] may not call getppid"},
		{"later", "[anonymous] may not call getppid"}, {"memfd", "[memfd:code] may not call getppid"},
		{"over", "[anonymous] may not call getppid"}, {"x32", "may not call x32:getppid"},
		{"io_uring", "may not call io_uring_setup"}, {"ptrace", "may not call ptrace"},
		{"vm_writev", "may not call process_vm_writev"}, {"thread", "escapes may not call getppid"},
		{"fork", "escapes may not call getppid"}, {"vfork", "escapes may not call getppid"},
		{"clone", "escapes may not call getppid"}, {"signal", "escapes may not call getppid"},
		{"context", "escapes may not call getppid"}, {"forged", "may not call getppid"}, {"changed", "may not call execve"},
	} {
		t.Run(e.way, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "program")
			copyFile(t, nothing(t), file)
			out := govern(t, escapesPolicy(program, file, bothLibraries), program, e.way, file)
			if out.status != 128+int(unix.SIGKILL) || strings.Contains(out.stdout, "escaped") ||
				!strings.Contains(out.stderr, e.says) {
				t.Errorf("status %d, %q\n%s", out.status, out.stdout, out.stderr)
			}
			t.Log(out.stderr)
		})
	}
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

// TestNoFalseDenial has a program do much that is allowed.
func TestNoFalseDenial(t *testing.T) {
	program, plugin := escapes(t)
	for _, c := range []struct{ way, n string }{{"threads", "1000"}, {"forks", "2000"}, {"plugins", "1000"}} {
		t.Run(c.way, func(t *testing.T) {
			out := govern(t, escapesPolicy(program, nothing(t), bothLibraries), program, c.way, plugin, c.n)
			if out.status != 0 || out.stderr != "" {
				t.Errorf("status %d, %q\n%s", out.status, out.stdout, out.stderr)
			}
		})
	}
}

// target is a command under a policy that runs beside the test.
type target struct {
	wrapper *exec.Cmd
	pid     int // of the command
	stdin   io.WriteCloser
	stdout  *bufio.Reader
	stderr  *strings.Builder
}

func start(t *testing.T, rules string, command ...string) *target {
	t.Helper()
	testenv.Require(t, canKill())
	file := filepath.Join(t.TempDir(), "policy")
	if err := os.WriteFile(file, []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	g := &target{wrapper: exec.CommandContext(ctx, "/proc/self/exe", command...), stderr: new(strings.Builder)}
	g.wrapper.Env = append(os.Environ(), asWrapper+"="+file)
	g.wrapper.Stderr = g.stderr
	in, err := g.wrapper.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := g.wrapper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	g.stdin, g.stdout = in, bufio.NewReader(out)
	if err := g.wrapper.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := g.stdout.ReadString('\n')
	if g.pid, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
		t.Fatalf("%q: %s", line, g.stderr)
	}
	t.Cleanup(func() { unix.Kill(g.pid, unix.SIGKILL) })
	return g
}

// TestWrapperKilled kills bulkhead itself: its target stays under the policy, and nothing is left when that has ended.
func TestWrapperKilled(t *testing.T) {
	program, _ := escapes(t)
	g := start(t, escapesPolicy(program, nothing(t), bothLibraries), program, "wait")
	if err := g.wrapper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	g.wrapper.Process.Wait()
	if left := leftovers(t, g.wrapper.Process.Pid); len(left) != 1 || left[0].Threads != 1 {
		t.Errorf("leftovers while the target runs: %+v", left)
	}
	io.WriteString(g.stdin, "\n")
	if said, _ := io.ReadAll(g.stdout); len(said) > 0 {
		t.Errorf("the target said %q", said)
	}
	var left []Leftover
	for range 100 {
		if left = leftovers(t, g.wrapper.Process.Pid); len(left) == 1 && left[0].Threads == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if len(left) != 1 || left[0].Threads != 0 {
		t.Fatalf("leftovers when the target has ended: %+v", left)
	}
	if err := left[0].Remove(); err != nil {
		t.Error(err)
	}
	if left := leftovers(t, g.wrapper.Process.Pid); len(left) != 0 {
		t.Errorf("leftovers after their removal: %+v", left)
	}
}

// leftovers are those of one dead process.
func leftovers(t *testing.T, pid int) (left []Leftover) {
	t.Helper()
	all, err := Leftovers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if strings.HasPrefix(filepath.Base(l.Dir), fmt.Sprintf("%d-", pid)) {
			left = append(left, l)
		}
	}
	return left
}

// TestApply swaps policies that both allow what the target does, under load, then puts one into force that does not.
func TestApply(t *testing.T) {
	program, _ := escapes(t)
	g := start(t, escapesPolicy(program, nothing(t), bothLibraries), program, "loop")
	apply := func(name, text string) {
		t.Helper()
		p, err := policy.Parse(name, []byte(text))
		if err == nil {
			err = Apply(g.pid, p, []byte(text))
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, g.stderr)
		}
	}
	const swaps = 100
	before := files(t, g.wrapper.Process.Pid)
	for i := range swaps {
		apply("swapped", escapesPolicy(program, nothing(t), []string{bothLibraries, `["libplugin.so", "lib[ab].so"]`}[i%2]))
	}
	if after := files(t, g.wrapper.Process.Pid); after > before+10 {
		t.Errorf("%d files are open after %d swaps, %d before", after, swaps, before)
	}
	if err := unix.Kill(g.pid, 0); err != nil || strings.Contains(g.stderr.String(), "may not call") {
		t.Fatalf("a swap has denied a call: %v\n%s", err, g.stderr)
	}
	apply("last", escapesPolicy(program, nothing(t), `["libplugin.so"]`))
	err := g.wrapper.Wait()
	if g.wrapper.ProcessState.ExitCode() != 128+int(unix.SIGKILL) || !strings.Contains(g.stderr.String(), "libb.so may not call getppid") {
		t.Errorf("%v\n%s", err, g.stderr)
	}
}

// files counts the open files of a process.
func files(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestBystander makes the denied calls in a process that is under no policy, while another is.
func TestBystander(t *testing.T) {
	program, _ := escapes(t)
	g := start(t, escapesPolicy(program, nothing(t), bothLibraries), program, "wait")
	for _, way := range []string{"direct", "jit", "thread", "fork"} {
		out, err := exec.Command(program, way).CombinedOutput()
		if err != nil || string(out) != "escaped\n" {
			t.Errorf("%s: %v, %q", way, err, out)
		}
	}
	g.stdin.Close()
	g.wrapper.Wait()
}
