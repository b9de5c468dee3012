package inkernel

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"bulkhead/internal/enforce/enforcetest"
	"bulkhead/internal/testenv"
)

// joined is a program that runs already, with a process that has put it under a policy.
type joined struct {
	program, governor *exec.Cmd
	stdin             io.WriteCloser
	stdout            *bufio.Reader
	notes             *bufio.Reader // of the governor
}

// join starts the program that waits for a line before it makes its call, and puts it under the policy of TestEscapes.
func join(t *testing.T) *joined {
	t.Helper()
	testenv.Require(t, canKill())
	program, _ := kernelBackend().Escapes(t)
	j := &joined{program: exec.Command(program, "wait")}
	in, err := j.program.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := j.program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	j.stdin, j.stdout = in, bufio.NewReader(out)
	if err := j.program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.program.Process.Kill() })
	if _, err := j.stdout.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "policy")
	if err := os.WriteFile(file, []byte(enforcetest.EscapesPolicy(program, kernelBackend().Nothing(t), enforcetest.BothLibraries)), 0o644); err != nil {
		t.Fatal(err)
	}
	j.governor = exec.Command("/proc/self/exe", strconv.Itoa(j.program.Process.Pid))
	j.governor.Env = append(os.Environ(), asWrapper+"="+file)
	notes, err := j.governor.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	j.notes = bufio.NewReader(notes)
	if err := j.governor.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.governor.Process.Kill() })
	if note, _ := j.notes.ReadString('\n'); !strings.Contains(note, "is under the policy") {
		t.Fatalf("%q", note)
	}
	return j
}

// finish lets the program make its call, and returns what it says then.
func (j *joined) finish() string {
	io.WriteString(j.stdin, "\n")
	said, _ := io.ReadAll(j.stdout)
	j.program.Wait()
	return string(said)
}

// TestJoin puts a running program under a policy that it violates later.
func TestJoin(t *testing.T) {
	j := join(t)
	said := j.finish()
	notes, _ := io.ReadAll(j.notes)
	err := j.governor.Wait()
	status := j.program.ProcessState.Sys().(syscall.WaitStatus)
	if said != "" || status.Signal() != syscall.SIGKILL || err != nil || !strings.Contains(string(notes), "escapes may not call getppid") {
		t.Errorf("%q, %v, %v\n%s", said, j.program.ProcessState, err, notes)
	}
	if left := pinned(t, j.governor.Process.Pid); left > 0 {
		t.Errorf("%d pins are left", left)
	}
}

// TestJoinInterrupted ends what TestJoin began before the violation: the program goes on without a policy.
func TestJoinInterrupted(t *testing.T) {
	j := join(t)
	if err := j.governor.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	notes, _ := io.ReadAll(j.notes)
	if err := j.governor.Wait(); err != nil {
		t.Errorf("%v\n%s", err, notes)
	}
	if left := pinned(t, j.governor.Process.Pid); left > 0 {
		t.Errorf("%d pins are left", left)
	}
	if said := j.finish(); said != "escaped\n" {
		t.Errorf("the program said %q, %v", said, j.program.ProcessState)
	}
}
