package cfi

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/internal/disasm"
	"bulkhead/internal/objfile"
)

// buildGo builds a Go fixture.
func buildGo(t *testing.T, name string, env []string, flags ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), name)
	args := append([]string{"build", "-o", out}, flags...)
	cmd := exec.Command("go", append(args, "./"+filepath.Join("testdata", name))...)
	cmd.Env = append(os.Environ(), env...)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", name, err, b)
	}
	return out
}

// unwindThreads unwinds all threads of a process that are in a system call.
func unwindThreads(t *testing.T, pid int) (stacks [][]string, errs []error) {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		tid, _ := strconv.Atoi(task.Name())
		regs := stopThread(t, tid)
		if !regs.InSyscall {
			unix.PtraceDetach(tid)
			continue
		}
		p := newLiveProcess(t, pid)
		frames, err := Unwind(regs, NewProcessMemory(tid), p.resolve, 128)
		unix.PtraceDetach(tid)
		var names []string
		for _, f := range frames {
			name := p.name(f.PC)
			if f.Guessed {
				name += " (guessed)"
			}
			names = append(names, name)
		}
		stacks, errs = append(stacks, names), append(errs, err)
	}
	return stacks, errs
}

func TestLiveGo(t *testing.T) {
	for _, flags := range [][]string{nil, {"-buildmode=pie"}, {"-ldflags=-s -w"}} {
		t.Run(strings.Join(flags, ""), func(t *testing.T) {
			program := buildGo(t, "gochain", []string{"CGO_ENABLED=0"}, flags...)
			wants := [][]string{
				{"*", "syscall.Syscall", "main.inner", "main.outer", "main.waiter", "runtime.goexit"},
				{"*", "runtime.systemstack", "*", "runtime.GC", "main.collect", "main.main", "runtime.main", "runtime.goexit"},
				{"*", "runtime.stoplockedm", "runtime.schedule", "*", "runtime.mcall"},
			}
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			cmd := exec.Command(program)
			cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { cmd.Process.Kill(); cmd.Wait() }()
			var last [][]string
			for deadline := time.Now().Add(10 * time.Second); len(wants) > 0 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
				stacks, errs := unwindThreads(t, cmd.Process.Pid)
				for i, stack := range stacks {
					if len(stack) == 1 && stack[0] == "runtime.clone" {
						continue // a new thread behind the system call that made it, which it has not made itself
					}
					if errs[i] != nil && slices.ContainsFunc(stack, func(s string) bool { return strings.HasPrefix(s, "runtime.") }) {
						t.Errorf("%q: %v", stack, errs[i])
					}
					wants = slices.DeleteFunc(wants, func(want []string) bool { return matches(stack, want...) })
				}
				last = stacks
			}
			for _, want := range wants {
				t.Errorf("no thread has the stack %q; the last had %q", want, last)
			}
		})
	}
}

// TestGoClone wants the walk to end behind the parent's return from runtime.clone: the child's stack is new.
func TestGoClone(t *testing.T) {
	f := openFile(t, buildGo(t, "gochain", []string{"CGO_ENABLED=0"}))
	table, err := Build(f)
	if err != nil {
		t.Fatal(err)
	}
	functions, err := f.GoTable()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(functions.Funcs, func(g objfile.GoFunc) bool { return baseName(g.Name) == "runtime.clone" })
	if i < 0 {
		t.Fatal("no runtime.clone")
	}
	clone := functions.Funcs[i]
	code, err := f.ReadVaddr(clone.Entry, clone.End-clone.Entry)
	if err != nil {
		t.Fatal(err)
	}
	offset, _ := f.VaddrToOffset(clone.Entry)
	want, calls := KindRegister, 0
	for pos := 0; pos < len(code); {
		in, err := disasm.Scan(code[pos:])
		if err != nil {
			t.Fatal(err)
		}
		if got := table.Lookup(offset + uint64(pos)).CFA; got != want {
			t.Errorf("at +%#x: %v, want %v", pos, got, want)
		}
		pos += in.Size()
		if in.IsRet() {
			want = KindEnd
		}
		if in.IsSyscall() {
			calls++
		}
	}
	if want != KindEnd || calls < 2 {
		t.Errorf("%d system calls, the last in code of %v", calls, want)
	}
}

func TestLiveCgo(t *testing.T) {
	program := buildGo(t, "gocallback", []string{"CGO_ENABLED=1"})
	names, _, err := unwindLive(t, unix.SYS_PAUSE, program)
	t.Log(names)
	checkChain(t, names, err,
		"pause", "runtime.asmcgocall", "runtime.cgocall", "main._Cfunc_innerC", "main.callInner", "*",
		"runtime.cgocallback", "crosscall2", "goMiddle", "runtime.asmcgocall", "runtime.cgocall", "main._Cfunc_outerC", "main.callOuter", "main.main", "runtime.main", "runtime.goexit")
}
