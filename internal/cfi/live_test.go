package cfi

import (
	"bytes"
	"errors"
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

	"bulkhead/internal/objfile"
)

// liveProcess resolves the addresses of a running process from its memory map.
type liveProcess struct {
	pid     int
	areas   []liveArea
	objects map[string]*liveObject
}

type liveArea struct {
	begin, end, offset uint64
	object             *liveObject // nil when no file backs it
}

type liveObject struct {
	file       *objfile.File
	table      *Table
	symbolizer *objfile.Symbolizer
}

func newLiveProcess(t *testing.T, pid int) *liveProcess {
	t.Helper()
	p := &liveProcess{pid: pid, objects: map[string]*liveObject{}}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		if len(fields) < 5 || !strings.Contains(fields[1], "x") {
			continue
		}
		from, to, _ := strings.Cut(fields[0], "-")
		a := liveArea{}
		a.begin, _ = strconv.ParseUint(from, 16, 64)
		a.end, _ = strconv.ParseUint(to, 16, 64)
		a.offset, _ = strconv.ParseUint(fields[2], 16, 64)
		if len(fields) > 5 && strings.HasPrefix(fields[5], "/") {
			a.object = p.object(t, fields[5])
		}
		p.areas = append(p.areas, a)
	}
	return p
}

func (p *liveProcess) object(t *testing.T, path string) *liveObject {
	t.Helper()
	if o := p.objects[path]; o != nil {
		return o
	}
	f, err := objfile.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	o := &liveObject{file: f}
	if o.table, err = Build(f); err != nil {
		t.Fatal(err)
	}
	if o.symbolizer, err = f.Symbolizer(); err != nil {
		t.Logf("%s: %v", path, err)
	}
	p.objects[path] = o
	return o
}

func (p *liveProcess) area(addr uint64) *liveArea {
	i := slices.IndexFunc(p.areas, func(a liveArea) bool { return a.begin <= addr && addr < a.end })
	if i < 0 {
		return nil
	}
	return &p.areas[i]
}

func (p *liveProcess) resolve(addr uint64) (*Table, uint64, bool) {
	a := p.area(addr)
	if a == nil {
		return nil, 0, false
	}
	if a.object == nil {
		return nil, 0, true
	}
	return a.object.table, addr - a.begin + a.offset, true
}

// frameName returns the function that a frame is in. One that is returned to without a call may begin at its IP.
func (p *liveProcess) frameName(f Frame) string {
	name := p.name(f.PC)
	if strings.HasSuffix(name, "+?") {
		name = p.name(f.IP)
	}
	return name
}

// name returns the function at an address.
func (p *liveProcess) name(addr uint64) string {
	a := p.area(addr)
	if a == nil || a.object == nil {
		return "[anonymous]"
	}
	vaddr, ok := a.object.file.OffsetToVaddr(addr - a.begin + a.offset)
	if ok && a.object.symbolizer != nil {
		if name, _, ok := a.object.symbolizer.Lookup(vaddr); ok {
			return name
		}
	}
	return filepath.Base(a.object.file.Name) + "+?"
}

// stopped waits until a thread of the process is blocked in a system call, stops that thread and returns its registers and
// id.
func stopped(t *testing.T, pid int, call int) (int, Regs) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tid := 0
	for tid == 0 {
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not enter system call %d", pid, call)
		}
		time.Sleep(2 * time.Millisecond)
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
		for _, task := range tasks {
			b, _ := os.ReadFile(task)
			if nr, _, _ := strings.Cut(string(b), " "); nr == strconv.Itoa(call) {
				tid, _ = strconv.Atoi(filepath.Base(filepath.Dir(task)))
			}
		}
	}
	return tid, stopThread(t, tid)
}

// stopThread seizes and stops a thread.
func stopThread(t *testing.T, tid int) Regs {
	t.Helper()
	if err := unix.PtraceSeize(tid); err != nil {
		t.Fatalf("seizing thread %d: %v", tid, err)
	}
	if err := unix.PtraceInterrupt(tid); err != nil {
		t.Fatalf("interrupting thread %d: %v", tid, err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(tid, &status, unix.WALL, nil); err != nil || !status.Stopped() {
		t.Fatalf("waiting for thread %d: status %#x, %v", tid, status, err)
	}
	var r unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &r); err != nil {
		t.Fatal(err)
	}
	// After execve, too, orig_rax has a number, but no instruction of this program has made that call.
	var code [2]byte
	unix.PtracePeekText(tid, uintptr(r.Rip-2), code[:])
	return Regs{
		GPR: [16]uint64{r.Rax, r.Rdx, r.Rcx, r.Rbx, r.Rsi, r.Rdi, r.Rbp, r.Rsp, r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15},
		IP:  r.Rip, InSyscall: int64(r.Orig_rax) >= 0 && code == [2]byte{0x0f, 0x05},
	}
}

// unwindLive starts a program, waits for it to block in a system call and unwinds that thread.
func unwindLive(t *testing.T, call int, program string, args ...string) (names []string, frames []Frame, err error) {
	t.Helper()
	runtime.LockOSThread() // ptrace belongs to a thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command(program, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	tid, regs := stopped(t, cmd.Process.Pid, call)
	p := newLiveProcess(t, cmd.Process.Pid)
	frames, err = Unwind(regs, NewProcessMemory(tid), p.resolve, 128)
	for _, f := range frames {
		names = append(names, p.frameName(f))
	}
	unix.PtraceDetach(tid)
	return names, frames, err
}

// compile builds a C fixture.
func compile(t *testing.T, compiler, source string, flags ...string) string {
	t.Helper()
	if _, err := exec.LookPath(compiler); err != nil {
		t.Skip(err)
	}
	out := filepath.Join(t.TempDir(), "fixture")
	args := append([]string{"-w", "-o", out, filepath.Join("testdata", source)}, flags...)
	if b, err := exec.Command(compiler, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", compiler, args, err, b)
	}
	return out
}

// matches reports whether a stack has exactly these frames, where "*" stands for any number of frames and "?" for one.
func matches(stack []string, want ...string) bool {
	if len(want) == 0 {
		return len(stack) == 0
	}
	if want[0] == "*" {
		return matches(stack, want[1:]...) || len(stack) > 0 && matches(stack[1:], want...)
	}
	return len(stack) > 0 && (want[0] == "?" || stack[0] == want[0]) && matches(stack[1:], want[1:]...)
}

// checkChain wants a walk to the outermost frame, with these frames.
func checkChain(t *testing.T, names []string, err error, want ...string) {
	t.Helper()
	if err != nil {
		t.Errorf("walk broke off: %v", err)
	}
	if !matches(names, want...) {
		t.Errorf("stack is %q, want %q", names, want)
	}
}

func TestLive(t *testing.T) {
	builds := []struct {
		name, compiler string
		flags          []string
		musl           bool
	}{
		{"O0", "gcc", []string{"-O0"}, false},
		{"O2", "gcc", []string{"-O2", "-fomit-frame-pointer"}, false},
		{"static", "gcc", []string{"-O2", "-static"}, false},
		{"static-pie", "gcc", []string{"-O2", "-static-pie"}, false},
		{"musl", "musl-gcc", []string{"-O2"}, true},
		{"musl-static", "musl-gcc", []string{"-O2", "-static"}, true},
		{"no-cfi", "musl-gcc", []string{"-O2", "-static", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"}, true},
	}
	fixtures := []struct {
		source string
		want   []string
		glibc  bool // not for musl
		cfi    bool // not without call frame information
	}{
		{"chain.c", []string{"*", "inner", "middle", "outer", "main", "*", "_start"}, false, false},
		// Data flow does not follow the stack pointer that outer keeps in another register (DRAP).
		{"dynamic_stack.c", []string{"*", "inner", "middle", "outer", "main", "*", "_start"}, false, true},
		{"signal.c", []string{"*", "inner", "handler", "*", "spin", "outer", "main", "*", "_start"}, false, false},
		{"callback.c", []string{"*", "compare", "*", "outer", "main", "*", "_start"}, false, false},
		{"tailcall.c", []string{"*", "inner", "middle", "*", "main", "*", "_start"}, false, false},
		{"thread.c", []string{"*", "inner", "run", "*"}, false, false},
		{"context.c", []string{"*", "inner", "run", "?"}, true, true},
	}
	for _, b := range builds {
		for _, f := range fixtures {
			if f.glibc && b.musl || f.cfi && b.name == "no-cfi" {
				continue
			}
			t.Run(b.name+"/"+f.source, func(t *testing.T) {
				program := compile(t, b.compiler, f.source, append(b.flags, "-pthread")...)
				names, frames, err := unwindLive(t, unix.SYS_PAUSE, program)
				t.Log(names)
				checkChain(t, names, err, f.want...)
				for i, frame := range frames {
					if frame.Guessed {
						t.Errorf("%s was reached without rows", names[i])
					}
				}
			})
		}
	}
}

// TestLivePrograms unwinds every thread of distribution binaries, which have no frame pointers.
func TestLivePrograms(t *testing.T) {
	for _, command := range [][]string{
		{"redis-server", "--port", "0", "--save", "", "--unixsocket", filepath.Join(t.TempDir(), "redis")},
		{"/usr/bin/python3", "-c", "import time, json\ndef inner(_): time.sleep(1000)\njson.loads('[1]', parse_int=inner)"},
		{"/usr/bin/perl", "-e", "my @x = sort { sleep 1000 } 1, 2"},
		{"/bin/bash", "-c", "f() { read x; }; f", "0"},
	} {
		t.Run(filepath.Base(command[0]), func(t *testing.T) {
			if _, err := exec.LookPath(command[0]); err != nil {
				t.Skip(err)
			}
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			cmd := exec.Command(command[0], command[1:]...)
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { cmd.Process.Kill(); cmd.Wait() }()
			// Until it has started and waits for input, on a machine however busy.
			var stacks [][]string
			var errs []error
			for deadline := time.Now().Add(20 * time.Second); len(stacks) == 0 && time.Now().Before(deadline); {
				time.Sleep(500 * time.Millisecond)
				stacks, errs = unwindThreads(t, cmd.Process.Pid)
			}
			for i, stack := range stacks {
				t.Logf("%q", stack)
				if errs[i] != nil || len(stack) < 3 {
					t.Errorf("%q: %v", stack, errs[i])
				}
				if slices.ContainsFunc(stack, func(s string) bool { return strings.HasSuffix(s, "(guessed)") }) {
					t.Errorf("%q: a frame without rows", stack)
				}
			}
			if len(stacks) == 0 {
				t.Error("no thread in a system call")
			}
		})
	}
}

// TestVDSO builds the table of this process's vDSO, which is an ELF image in memory only.
func TestVDSO(t *testing.T) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.Contains(line, "[vdso]") {
			continue
		}
		var begin, end uint64
		if _, err := fmt.Sscanf(line, "%x-%x", &begin, &end); err != nil {
			t.Fatal(err)
		}
		image := make([]byte, end-begin)
		if n, err := readProcess(os.Getpid(), begin, image); err != nil || n != len(image) {
			t.Fatalf("reading %d bytes at %#x: %d, %v", len(image), begin, n, err)
		}
		f, err := objfile.NewFile(bytes.NewReader(image), int64(len(image)), "[vdso]")
		if err != nil {
			t.Fatal(err)
		}
		table, err := Build(f)
		if err != nil {
			t.Fatal(err)
		}
		symbols, err := f.DynamicSymbols()
		if err != nil {
			t.Fatal(err)
		}
		checked := 0
		for _, s := range symbols {
			if offset, ok := f.VaddrToOffset(s.Value); ok && s.Size > 0 {
				checked++
				if r := table.Lookup(offset); r.CFA != KindRegister || r.Reg != RegRSP || r.CFAOffset != 8 {
					t.Errorf("%s: %+v", s.Name, r)
				}
			}
		}
		if checked < 4 {
			t.Errorf("%d functions", checked)
		}
		return
	}
	t.Skip("no vDSO")
}

// TestLiveStripped wants the same stack without symbols: then functions are known by calls, pointers and alignment only.
func TestLiveStripped(t *testing.T) {
	for _, c := range []struct {
		how string
		nr  int
	}{{"read", unix.SYS_READ}, {"printf", unix.SYS_WRITEV}, {"futex", unix.SYS_FUTEX}} {
		t.Run(c.how, func(t *testing.T) {
			flags := []string{"-O2", "-static", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"}
			_, want, err := unwindLive(t, c.nr, compile(t, "musl-gcc", "calls.c", flags...), c.how)
			if err != nil {
				t.Fatal(err)
			}
			_, got, err := unwindLive(t, c.nr, compile(t, "musl-gcc", "calls.c", append(flags, "-s")...), c.how)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) < 4 || !slices.EqualFunc(got, want, func(a, b Frame) bool { return a.IP == b.IP && !a.Guessed }) {
				t.Errorf("stripped %+v, with symbols %+v", got, want)
			}
		})
	}
}

func TestLiveCalls(t *testing.T) {
	calls := []struct {
		how string
		nr  int
	}{
		{"read", unix.SYS_READ}, {"write", unix.SYS_WRITE}, {"futex", unix.SYS_FUTEX},
		{"printf", -1}, {"nanosleep", -2},
	}
	for _, compiler := range []string{"gcc", "musl-gcc"} {
		for _, flags := range [][]string{{"-O2"}, {"-O2", "-static"}} {
			program := ""
			t.Run(compiler+strings.Join(flags, ""), func(t *testing.T) {
				program = compile(t, compiler, "calls.c", append(flags, "-pthread")...)
				for _, c := range calls {
					nr := c.nr
					switch {
					case nr == -1 && compiler == "gcc":
						nr = unix.SYS_WRITE
					case nr == -1:
						nr = unix.SYS_WRITEV
					case nr == -2 && compiler == "gcc":
						nr = unix.SYS_CLOCK_NANOSLEEP
					case nr == -2:
						nr = unix.SYS_NANOSLEEP
					}
					names, _, err := unwindLive(t, nr, program, c.how)
					t.Log(c.how, names)
					checkChain(t, names, err, "*", "block", "main", "*", "_start")
				}
			})
		}
	}
}

// TestLiveStackCopy unwinds from a captured stack instead of the process.
func TestLiveStackCopy(t *testing.T) {
	program := compile(t, "gcc", "chain.c", "-O2")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(program)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	tid, regs := stopped(t, cmd.Process.Pid, unix.SYS_PAUSE)
	p := newLiveProcess(t, cmd.Process.Pid)
	stack := make([]byte, 2048)
	base := regs.GPR[RegRSP] - 128 // the red zone
	n, err := readProcess(tid, base, stack)
	if err != nil {
		t.Fatal(err)
	}
	live, err := Unwind(regs, NewProcessMemory(tid), p.resolve, 64)
	if err != nil {
		t.Fatal(err)
	}
	copied, err := Unwind(regs, StackCopy{base, stack[:n]}, p.resolve, 64)
	if err != nil || !slices.Equal(live, copied) {
		t.Errorf("from a copy: %v, %v; live: %v", copied, err, live)
	}
	copied, err = Unwind(regs, StackCopy{base, stack[:200]}, p.resolve, 64)
	var walk *WalkError
	if !errors.As(err, &walk) || walk.Why != BreakMemory || !slices.Equal(copied, live[:len(copied)]) || len(copied) == 0 {
		t.Errorf("from 200 bytes: %v, %v", copied, err)
	}
}
