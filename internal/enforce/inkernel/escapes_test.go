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

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"bulkhead/internal/enforce/enforcetest"
	"bulkhead/internal/policy"
	"bulkhead/internal/testenv"
)

func TestEscapes(t *testing.T) { kernelBackend().WaysAround(t) }

func TestNoFalseDenial(t *testing.T) {
	kernelBackend().NoFalseDenial(t)
	t.Run("busy", func(t *testing.T) { kernelBackend().NoFalseDenialWhileBusy(t, 500) })
}

// holds counts what a process has open, among it maps, programs and links, and what it has pinned.
func holds(t *testing.T, pid int) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(open) + pinned(t, pid)
}

func pinned(t *testing.T, pid int) int {
	t.Helper()
	pins, err := filepath.Glob(fmt.Sprintf("%s/%d-*/*", pinRoot, pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(pins)
}

// mapsInKernel counts all there are: those of policies are in other maps and in no process.
func mapsInKernel() (n int) {
	for id := ebpf.MapID(0); ; n++ {
		next, err := ebpf.MapGetNextID(id)
		if err != nil {
			return n
		}
		id = next
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
	program, _ := kernelBackend().Escapes(t)
	g := start(t, enforcetest.EscapesPolicy(program, kernelBackend().Nothing(t), enforcetest.BothLibraries), program, "wait")
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
	program, _ := kernelBackend().Escapes(t)
	g := start(t, enforcetest.EscapesPolicy(program, kernelBackend().Nothing(t), enforcetest.BothLibraries), program, "loop")
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
	swaps := 100
	if enforcetest.Stress {
		swaps = 1000
	}
	pid := g.wrapper.Process.Pid
	before, maps := holds(t, pid), mapsInKernel()
	for i := range swaps {
		apply("swapped", enforcetest.EscapesPolicy(program, kernelBackend().Nothing(t), []string{enforcetest.BothLibraries, `["libplugin.so", "lib[ab].so"]`}[i%2]))
	}
	if after := holds(t, pid); after > before+10 {
		t.Errorf("%d files, maps, links and pins after %d swaps, %d before", after, swaps, before)
	}
	if grown := mapsInKernel() - maps; grown > swaps/2 { // other tests have some
		t.Errorf("%d maps more in the kernel after %d swaps", grown, swaps)
	}
	t.Logf("%d swaps: %d files, maps, links and pins before, %d after; %d maps in the kernel before, %d after",
		swaps, before, holds(t, pid), maps, mapsInKernel())
	if err := unix.Kill(g.pid, 0); err != nil || strings.Contains(g.stderr.String(), "may not call") {
		t.Fatalf("a swap has denied a call: %v\n%s", err, g.stderr)
	}
	apply("last", enforcetest.EscapesPolicy(program, kernelBackend().Nothing(t), `["libplugin.so"]`))
	err := g.wrapper.Wait()
	if g.wrapper.ProcessState.ExitCode() != 128+int(unix.SIGKILL) || !strings.Contains(g.stderr.String(), "libb.so may not call getppid") {
		t.Errorf("%v\n%s", err, g.stderr)
	}
	if left := pinned(t, pid); left > 0 {
		t.Errorf("%d pins are left", left)
	}
}

// TestBystander makes the denied calls in a process that is under no policy, while another is.
func TestBystander(t *testing.T) {
	program, _ := kernelBackend().Escapes(t)
	g := start(t, enforcetest.EscapesPolicy(program, kernelBackend().Nothing(t), enforcetest.BothLibraries), program, "wait")
	for _, way := range []string{"direct", "jit", "thread", "fork"} {
		out, err := exec.Command(program, way).CombinedOutput()
		if err != nil || string(out) != "escaped\n" {
			t.Errorf("%s: %v, %q", way, err, out)
		}
	}
	g.stdin.Close()
	g.wrapper.Wait()
}
