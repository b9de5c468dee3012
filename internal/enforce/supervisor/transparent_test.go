package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead/internal/policy"
	"bulkhead/internal/syscalls"
	"bulkhead/internal/testenv"
)

// everything is a policy under which every call stops and is allowed, in every image.
func everything(program string) string {
	var names []string
	for _, name := range syscalls.All(syscalls.AMD64) {
		names = append(names, name)
	}
	return fmt.Sprintf("schema = %q\non-exec = \"inherit\"\n[[program]]\npath = %q\n[[program.compartment]]\nname = \"all\"\n"+
		"match = [\"*\", \"[anonymous]\", \"[vdso]\"]\nallow = [%s]\n", policy.Schema, program, quoted(strings.Join(names, " ")))
}

const buildC = `
unset MAKEFLAGS MAKELEVEL # this may run under make
mkdir src && cd src
for i in 1 2 3 4 5 6; do echo "int f$i(void) { return $i; }" >f$i.c; done
printf 'int f1(void),f2(void),f3(void),f4(void),f5(void),f6(void);int printf(const char*,...);int main(){printf("%%d\\n",f1()+f2()+f3()+f4()+f5()+f6());}' >main.c
printf 'OBJS=main.o f1.o f2.o f3.o f4.o f5.o f6.o\nprog: $(OBJS)\n\t@gcc -o $@ $(OBJS)\n%%.o: %%.c\n\t@gcc -O1 -c $<\n' >Makefile
make -j2 && ./prog && make -q && touch f1.c && ! make -q
`

const useGit = `
export GIT_AUTHOR_DATE=2020-01-01T00:00:00Z GIT_COMMITTER_DATE=2020-01-01T00:00:00Z
git init -q repo && cd repo && git config user.name a && git config user.email a@b
for i in 1 2 3; do echo $i >f$i; git add .; git commit -qm "c$i"; done
git log --format=%H; git gc -q; git clone -q . ../copy && git -C ../copy fsck 2>/dev/null; git diff --stat HEAD~2; git checkout -q nothing 2>/dev/null; echo $?
`

const usePython = `
import concurrent.futures, subprocess, sys, threading, signal, os, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN]) # in all threads: one that is about to end would take it
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(sum(pool.map(lambda n: int(subprocess.run(["sh", "-c", f"echo {n}; exit {n % 3}"], capture_output=True).stdout), range(12))))
p = subprocess.Popen(["sleep", "100"]); p.terminate(); print(p.wait())
e = threading.Event(); signal.signal(signal.SIGUSR1, lambda *a: e.set())
os.kill(os.getpid(), signal.SIGUSR1); print(e.wait(5))
os.kill(os.getpid(), signal.SIGRTMIN)
s = signal.sigwaitinfo([signal.SIGRTMIN]); print(s.si_signo, s.si_pid == os.getpid(), s.si_code)
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    os.kill(os.getpid(), signal.SIGSTOP); os.read(r, 1); os._exit(7)
_, st = os.waitpid(pid, os.WUNTRACED); print("stopped", os.WIFSTOPPED(st), os.WSTOPSIG(st))
os.kill(pid, signal.SIGCONT); _, st = os.waitpid(pid, os.WCONTINUED); print("continued", os.WIFCONTINUED(st)); os.write(w, b"x")
_, st = os.waitpid(pid, 0); print("exit", os.WEXITSTATUS(st))
sys.exit(5)
`

const useBash = `
set -m
sleep 100 & p=$!
kill -STOP $p; sleep 0.3; jobs | sed 's/ *$//'
kill -CONT $p; sleep 0.3; jobs | sed 's/ *$//'
kill -TERM $p; wait $p; echo $?
(trap 'echo trapped; exit 3' USR1; kill -USR1 $BASHPID; sleep 5); echo $?
sh -c 'kill -SEGV $$' 2>/dev/null; echo $?
timeout 0.2 sleep 10; echo $?
echo a b c | tr ' ' '\n' | sort -r | head -2
exec -a other bash -c 'echo $0; exec sh -c "exit 9"'
`

// TestTransparent runs programs alone and supervised, where every call of theirs stops: they do the same.
func TestTransparent(t *testing.T) {
	python := testenv.Tool(t, "/usr/bin/python3")
	// Where the command's user can reach it.
	bulkhead := filepath.Join(fixtures.Dir(), "bulkhead")
	if said, err := exec.Command("cp", testenv.BuildProgram(t, "cmd/bulkhead"), bulkhead).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	for name, argv := range map[string][]string{
		"make": {"/bin/bash", "-c", buildC}, "git": {"/bin/bash", "-c", useGit}, "python": {python, "-c", usePython},
		"bash": {"/bin/bash", "-c", useBash}, "go": {bulkhead, "analyze", "-o", "csv", "--out", "/dev/stdout", "/bin/true"},
	} {
		t.Run(name, func(t *testing.T) {
			program, err := filepath.EvalSymlinks(argv[0])
			if err != nil {
				t.Fatal(err)
			}
			alone := supervised(t, everything(program), argv...)
			alone.Path, alone.Args = program, argv
			var stdout, stderr bytes.Buffer
			alone.Stdout, alone.Stderr = &stdout, &stderr
			_ = alone.Run() // its status is compared
			out := supervise(t, everything(program), argv...)
			if out.stdout != stdout.String() || out.status != alone.ProcessState.ExitCode() {
				t.Errorf("alone: status %d\n%s%s\nsupervised: status %d\n%s%s",
					alone.ProcessState.ExitCode(), stdout.String(), stderr.String(), out.status, out.stdout, out.stderr)
			}
			if strings.Contains(out.stderr, "may not") {
				t.Errorf("denied:\n%s", out.stderr)
			}
		})
	}
}

// TestKilledSupervisor: no process of the target survives the end of its supervisor.
func TestKilledSupervisor(t *testing.T) {
	program := build(t, "load", "gcc -O2 -pthread testdata/load.c")
	rules := policyText(program, "", "clone clone3 madvise write", "load:getppid")
	for i := range 100 {
		c := supervised(t, rules, program)
		mark := fmt.Sprintf("BULKHEAD_TEST_MARK=%d-%d", os.Getpid(), i)
		c.Env = append(c.Env, mark)
		ready, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if n, err := ready.Read(make([]byte, 1)); n != 1 {
			t.Fatalf("the target did not start: %v", err)
		}
		_ = c.Process.Kill()
		_ = c.Wait()
		if left := survivors(mark); len(left) > 0 {
			t.Fatalf("round %d: processes %v are left", i, left)
		}
	}
}

// survivors returns the processes with a mark in their environment that are still there after a moment.
func survivors(mark string) []string {
	var left []string
	for range 100 {
		left = nil
		all, _ := filepath.Glob("/proc/[0-9]*/environ")
		for _, file := range all {
			if data, err := os.ReadFile(file); err == nil && bytes.Contains(data, []byte(mark)) {
				left = append(left, file)
			}
		}
		if len(left) == 0 {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return left
}

// TestExec: an image that the policy does not list never runs, whichever way its path is given; listed ones do.
func TestExec(t *testing.T) {
	program := build(t, "execs", "gcc -O2 -pthread testdata/execs.c")
	listed, err := filepath.EvalSymlinks(testenv.Tool(t, "true"))
	if err != nil {
		t.Fatal(err)
	}
	unlisted, err := filepath.EvalSymlinks(testenv.Tool(t, "touch"))
	if err != nil {
		t.Fatal(err)
	}
	calls := "execve execveat clone clone3 vfork wait4 write symlink rename unlink madvise clock_gettime getppid"
	rules := policyText(program, "", "", "execs:"+calls) +
		fmt.Sprintf("[[program]]\npath = %q\n[[program.compartment]]\nname = \"true\"\nallow = [\"execve\"]\n"+
			"[[program.compartment]]\nname = \"ld-linux-x86-64.so.2\"\nallow = [\"execve\"]\n", listed)
	for _, way := range []string{"path", "fd", "race", "thread"} {
		t.Run(way, func(t *testing.T) {
			out := supervise(t, rules, program, way, listed, unlisted)
			if _, err := os.Stat(filepath.Join(out.dir, "made")); err == nil || out.status != 0 {
				t.Errorf("status %d, the unlisted image ran: %v\n%s", out.status, err == nil, out.stderr)
			}
			if !strings.Contains(out.stdout, "listed ok") {
				t.Errorf("the listed image did not run:\n%s%s", out.stdout, out.stderr)
			}
		})
	}
}
