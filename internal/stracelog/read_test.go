package stracelog

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

var update = flag.Bool("update", false, "write the golden file anew")

// summary has one line per program and per system call, in the document's
// order: what the tests compare.
func summary(d *attribution.Document) string {
	var b strings.Builder
	for i := range d.Programs {
		p := &d.Programs[i]
		fmt.Fprintf(&b, "%s lost=%d unattributed=%d broken=%d\n", p.Path, p.Losses.LostEvents, p.Losses.Unattributed, p.Losses.BrokenStacks)
		for _, c := range p.Compartments {
			for _, s := range c.Syscalls {
				fmt.Fprintf(&b, "  %s %s %d", c.Name, s.Label(p.Arch), s.Count)
				if len(s.Via) > 0 {
					fmt.Fprintf(&b, " via %s", strings.Join(s.Via, ","))
				}
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}

const (
	ldStack   = " > /lib64/ld-linux-x86-64.so.2(_start+0x8) [0x1ab78]\n"
	mainStack = " > /lib/libc.so.6(write+0x10) [0xf8350]\n > /opt/app(main+0x1a) [0x11a]\n > /lib/libc.so.6(__libc_start_main+0x85) [0x27305]\n > /opt/app(_start+0x21) [0x361]\n"
	plugStack = " > /lib/libc.so.6(__write+0x10) [0xf8350]\n > /lib/libc.so.6(fputs+0x10) [0xf8350]\n > /opt/plugin.so(work+0x1a) [0x11a]\n > /opt/app(main+0x1a) [0x11a]\n > /opt/app(_start+0x21) [0x361]\n"
	begin     = "10 execve(\"/opt/app\", [\"app\"], 0x7ffe /* 3 vars */) = 0\n" + ldStack
)

var readTests = []struct{ name, log, want string }{
	{"start-up, plugin and end",
		begin +
			"10 brk(NULL) = 0x1000\n" + ldStack +
			"10 write(1, \"a = b\", 5) = 5\n" + plugStack +
			"10 write(2, \"x\", 1 <unfinished ...>\n10 <... write resumed>) = 1\n" + mainStack +
			"10 exit_group(0) = ?\n10 +++ exited with 0 +++\n" + mainStack,
		`/opt/app lost=0 unattributed=0 broken=0
  app exit_group 1 via write
  app write 1 via write
  ld-linux-x86-64.so.2 brk 1
  plugin.so write 1 via fputs
`},
	{"a signal's stack is of no call",
		begin +
			"10 pause() = ? ERESTARTNOHAND (To be restarted if no handler)\n" + mainStack +
			"10 --- SIGUSR1 {si_signo=SIGUSR1, si_code=SI_USER} ---\n" + plugStack +
			"10 rt_sigreturn({mask=[]}) = -1 EINTR (Interrupted system call)\n" + mainStack,
		`/opt/app lost=0 unattributed=0 broken=0
  app pause 1 via write
  app rt_sigreturn 1 via write
`},
	{"no stack",
		begin + "10 write(1, \"\", 0) = 0\n10 pause( <unfinished ...>\n10 <... pause resumed>) = ?\n10 +++ killed by SIGKILL +++\n",
		`/opt/app lost=0 unattributed=2 broken=0
  [unknown] pause 1
  [unknown] write 1
`},
	{"the log ends in a call",
		begin + "10 write(1, \"x\", 1) = 1\n" + mainStack + "10 read(0,  <unfinished ...>\n",
		`/opt/app lost=0 unattributed=1 broken=0
  [unknown] read 1
  app write 1 via write
`},
	{"anonymous code and walks that end early",
		begin +
			"10 getpid() = 10\n > unexpected_backtracing_error [0x7f00]\n" +
			"10 write(1, \"\", 0) = 0\n > /lib/libc.so.6(write+0x10) [0xf8350]\n > unexpected_backtracing_error [0x7f00]\n" +
			"10 read(0, \"\", 0) = 0\n > /lib/libc.so.6(read+0x10) [0xf8350]\n > /opt/plugin.so(+0x0) [0x11a]\n",
		`/opt/app lost=0 unattributed=1 broken=2
  [anonymous] getpid 1
  [unknown] write 1
  plugin.so read 1 via read
`},
	{"conduits only: a whole stack in a thread and in the loader, else a walk that ended early",
		begin +
			"10 clone3({flags=CLONE_VM|CLONE_THREAD} <unfinished ...>\n" +
			"11 rseq(0x7f, 0x20, 0, 0x53053053) = 0\n > /lib/libc.so.6(start_thread+0x1) [0x1]\n > /lib/libc.so.6(clone3+0x1) [0x1]\n" +
			"10 <... clone3 resumed>) = 11\n" + mainStack +
			"11 fork() = 12\n > /lib/libc.so.6(fork+0x1) [0x1]\n > /opt/app(worker+0x1) [0x1]\n > /lib/libc.so.6(clone3+0x1) [0x1]\n" +
			"12 exit(0) = ?\n12 +++ exited with 0 +++\n > /lib/libc.so.6(exit+0x1) [0x1]\n > /lib/libc.so.6(clone3+0x1) [0x1]\n" +
			"10 brk(NULL) = 0x1\n > /lib/libc.so.6(brk+0x1) [0x1]\n" +
			"10 mmap(NULL) = 0x1\n > /lib/ld-musl-x86_64.so.1(mmap+0x1) [0x1]\n > [vdso]() [0x0]\n" +
			"11 munmap(NULL) = 0\n > /lib/ld-musl-x86_64.so.1(munmap+0x1) [0x1]\n" +
			"10 close(1) = 0\n > /lib/libc.so.6(brk+0x1) [0x1]\n" + ldStack,
		`/opt/app lost=0 unattributed=3 broken=0
  [unknown] brk 1
  [unknown] mmap 1
  [unknown] munmap 1
  app clone3 1 via write
  app fork 1 via fork
  ld-linux-x86-64.so.2 close 1 via brk
  libc.so.6 exit 1
  libc.so.6 rseq 1
`},
	{"vfork and exec: the call is the old image's",
		begin +
			"10 vfork( <unfinished ...>\n11 write(1, \"c\", 1) = 1\n" + mainStack +
			"11 execve(\"/bin/true\", [\"true\"], 0x7ffd /* 3 vars */ <unfinished ...>\n" +
			"10 <... vfork resumed>) = 11\n" + mainStack +
			"11 <... execve resumed>) = 0\n" + mainStack +
			"11 brk(NULL) = 0x1000\n" + ldStack +
			"11 exit_group(0) = ?\n11 +++ exited with 0 +++\n > /usr/bin/true() [0x23f1]\n",
		`/opt/app lost=0 unattributed=0 broken=0
  app execve 1 via write
  app vfork 1 via write
  app write 1 via write
/usr/bin/true lost=0 unattributed=0 broken=0
  ld-linux-x86-64.so.2 brk 1
  true exit_group 1
`},
	{"two forks at once: the parent's result decides",
		begin +
			"10 clone(flags=SIGCHLD) = 11\n" + mainStack +
			"11 execve(\"/opt/other\", [\"other\"], 0x7ffd /* 3 vars */) = 0\n" + mainStack +
			"11 clone(flags=SIGCHLD <unfinished ...>\n10 clone(flags=SIGCHLD <unfinished ...>\n" +
			"20 getpid() = 20\n > /opt/other(f+0x1) [0x1]\n" +
			"21 getppid() = 1\n > /opt/app(f+0x1) [0x1]\n" +
			"21 +++ exited with 0 +++\n" +
			"10 <... clone resumed>) = 21\n" + mainStack +
			"11 <... clone resumed>) = 20\n > /opt/other(f+0x1) [0x1]\n",
		`/opt/app lost=0 unattributed=0 broken=0
  app clone 2 via write
  app execve 1 via write
  app getppid 1
/opt/other lost=0 unattributed=0 broken=0
  other clone 1
  other getpid 1
`},
	{"a thread's execve takes the process over",
		begin +
			"10 clone3({flags=CLONE_THREAD}) = 12\n" + mainStack +
			"10 futex(0x1, FUTEX_WAIT <unfinished ...>\n" +
			"12 execve(\"/opt/next\", [\"next\"], 0x7ffd /* 3 vars */ <unfinished ...>\n" +
			"10 +++ superseded by execve in pid 12 +++\n10 <... execve resumed>) = 0\n" + mainStack +
			"10 getpid() = 10\n > /opt/next(_start+0x1) [0x1]\n",
		`/opt/app lost=0 unattributed=1 broken=0
  [unknown] futex 1
  app clone3 1 via write
  app execve 1 via write
/opt/next lost=0 unattributed=0 broken=0
  next getpid 1
`},
	{"links and scripts: the stacks have the file",
		"10 execve(\"/usr/bin/python3\", [\"python3\"], 0x7ffe /* 3 vars */) = 0\n" + ldStack +
			"10 getpid() = 10\n > /usr/bin/python3.11(_start+0x1) [0x1]\n" +
			"10 execve(\"./bin/tool\", [\"tool\"], 0x7ffe /* 3 vars */) = 0\n > /usr/bin/python3.11(_start+0x1) [0x1]\n" +
			"10 getpid() = 10\n > /home/me/bin/tool(_start+0x1) [0x1]\n",
		`/usr/bin/python3.11 lost=0 unattributed=0 broken=0
  python3.11 execve 1
  python3.11 getpid 1
/home/me/bin/tool lost=0 unattributed=0 broken=0
  tool getpid 1
`},
	{"standard error: attached, only one left, other ABIs",
		"execve(\"/opt/app\", [\"app\"], 0x7ffe /* 3 vars */) = 0\n" + ldStack +
			"the program's own words (like this)\n" +
			"clone(child_stack=NULL, flags=SIGCHLDstrace: Process 11 attached\n, child_tidptr=0x7f) = 11\n" + mainStack +
			"[pid    11] execve(\"/bin/sub\", [\"sub\"], 0x7f /* 1 var */ <unfinished ...>\n" +
			"[pid    10] wait4(11,  <unfinished ...>\n" +
			"[pid    11] <... execve resumed>) = 0\n" + mainStack +
			"[pid    11] exit_group(0) = ?\n[pid    11] +++ exited with 0 +++\n > /bin/sub(_start+0x1) [0x1]\n" +
			"<... wait4 resumed>NULL, 0, NULL) = 11\n" + mainStack +
			"strace: [ Process PID=10 runs in 32 bit mode. ]\ngetpid() = 10\n" +
			"[ Process PID=10 runs in x32 mode. ]\ngetpid() = 10\n" +
			"[ Process PID=10 runs in 64 bit mode. ]\ngetpid() = 10\n" + mainStack,
		`/opt/app lost=0 unattributed=2 broken=0
  [unknown] i386:getpid 1
  [unknown] x32:getpid 1
  app clone 1 via write
  app execve 1 via write
  app getpid 1 via write
  app wait4 1 via write
/bin/sub lost=0 unattributed=0 broken=0
  sub exit_group 1
`},
	{"attached to a running process",
		"strace: Process 10 attached with 3 threads\n" +
			"[pid 12] futex(0x7f, FUTEX_WAIT <unfinished ...>\n" +
			"[pid 11] restart_syscall(<... resuming interrupted read ...> <unfinished ...>\n" +
			"[pid 10] write(1, \"x\", 1) = 1\n" + mainStack +
			"[pid 11] <... restart_syscall resumed>) = 0\n > /lib/libc.so.6(read+0x10) [0xf8350]\n > /opt/app(loop+0x1) [0x1]\n > /lib/libc.so.6(clone+0x3f) [0x1]\n" +
			"[pid 11] read(0, \"\", 1) = 0\n > /opt/app(_start+0x1) [0x1]\n" +
			"[pid 12] <... futex resumed> <detached ...>\n",
		`/opt/app lost=0 unattributed=1 broken=0
  [unknown] futex 1
  app read 1
  app restart_syscall 1 via read
  app write 1 via write
`},
	{"what cannot be read is lost",
		begin + "10 ????( <unfinished ...>\n10 frobnicate(1) = 0\n10 write(1, \"x\", 1) = 1\n" + mainStack,
		`/opt/app lost=2 unattributed=0 broken=0
  app write 1 via write
`},
	{"numbers without a name, names of i386 only",
		begin + "10 syscall_0x3e7(0x1, 0x2) = -1 ENOSYS (Function not implemented)\n" + mainStack +
			"10 waitpid(-1, NULL, 0) = 0\n" + mainStack,
		`/opt/app lost=0 unattributed=0 broken=0
  app syscall_999 1 via write
  app i386:waitpid 1 via write
`},
}

func TestRead(t *testing.T) {
	for _, tt := range readTests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := Read(strings.NewReader(tt.log), Options{ABI: syscalls.AMD64})
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Validate(); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(tt.want, summary(d)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestReadPrefixes: the options that put something in front of a call do not
// change the result.
func TestReadPrefixes(t *testing.T) {
	plain := readTests[0]
	for _, prefix := range []string{
		"12:34:56 ", "12:34:56.123456 ", "1763867695.123456 ", "1763867695 ", "     0.000123 ", "12:34:56 (+     0.000123) ",
		"[00007f21aef3d6f7] ", "[   1] ", "[????????????????] ", "12:34:56 [  59] [00007f21aef3d6f7] ",
	} {
		for _, pid := range []string{"10 ", "[pid    10] ", "10<app> ", ""} {
			log := strings.ReplaceAll("\n"+plain.log, "\n10 ", "\n"+pid+prefix)[1:]
			log = strings.ReplaceAll(log, ") = 5\n", ") = 5 <0.000012>\n")
			d, err := Read(strings.NewReader(log), Options{})
			if err != nil {
				t.Errorf("%q: %v", pid+prefix, err)
				continue
			}
			if diff := cmp.Diff(plain.want, summary(d)); diff != "" {
				t.Errorf("%q: -want +got:\n%s", pid+prefix, diff)
			}
		}
	}
}

func TestReadErrors(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"empty", "", "no system call in it: not a log of strace"},
		{"a text", "Dear reader,\nthis is prose (with = signs).\n", "no system call in it: not a log of strace"},
		{"a long text", strings.Repeat("prose\n", 3*maxForeign), "no system call in the first 10000 lines: not a log of strace"},
		{"one line", strings.Repeat("x", maxLine+2), "line 1 is longer than 16 MB: not a log of strace"},
		{"no -k", "10 execve(\"/bin/a\", [\"a\"], 0x7f /* 3 vars */) = 0\n10 brk(NULL) = 0x1000\n", "no stack in it: record with strace -f -k -o FILE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Read(strings.NewReader(tt.in), Options{})
			if err == nil || err.Error() != "read strace log: "+tt.want {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestParseFrame(t *testing.T) {
	tests := []struct {
		in   string
		want frame
	}{
		{"/lib/libc.so.6(write+0x10) [0xf8350]", frame{"/lib/libc.so.6", "write", 0x10, true, ofClone}},
		{"/usr/bin/env() [0x3033]", frame{"/usr/bin/env", "", 0x3033, false, whole}},
		{"/usr/bin/env(+0x0) [0x3033]", frame{"/usr/bin/env", "", 0x3033, false, whole}},
		{"/opt/a.so(_ZN2ns3fooEi+0x5) [0x1]", frame{"/opt/a.so", "ns::foo", 5, false, broken}},
		{"/opt/a.so(ns::foo(int, char (*)[3])+0x5) [0x1]", frame{"/opt/a.so", "ns::foo(int, char (*)[3])", 5, false, broken}},
		{"/opt/my app (2)/a(main+0x5) [0x1]", frame{"/opt/my app (2)/a", "main", 5, false, whole}},
		{"/opt/a (deleted)(main+0x5) [0x1]", frame{"/opt/a", "main", 5, false, whole}},
		{"/memfd:jit (deleted)(main+0x5) [0x1]", frame{"[memfd:jit]", "main", 5, false, whole}},
		{"[vdso](__vdso_time+0x5) [0x1]", frame{"[vdso]", "__vdso_time", 5, true, broken}},
		{"/opt/a(main+0x5) a.c:12 [0x1]", frame{"/opt/a", "main", 5, false, whole}},
		{"unexpected_backtracing_error [0x7f00]", frame{}},
		{"", frame{}},
	}
	for _, tt := range tests {
		if got := parseFrame([]byte(tt.in), attribution.Conduits{}); got != tt.want {
			t.Errorf("%q: %+v, want %+v", tt.in, got, tt.want)
		}
	}
}

func TestExecPath(t *testing.T) {
	for in, want := range map[string]string{
		`"/bin/a", ["a", "b"], 0x7f) = 0`:         "/bin/a",
		`AT_FDCWD, "/bin/b", ["b"], 0x7f, 0) = 0`: "/bin/b",
		`"/bin/\"q\"\303\244", [], NULL) = 0`:     "/bin/\"q\"ä",
		`"\x2f\x61", [], NULL) = 0`:               "/a",
		`3, "", ["a"], 0x7f, AT_EMPTY_PATH) = 0`:  "[unknown]",
		`0x7ffe, [], NULL) = -1 EFAULT`:           "[unknown]",
		`"/cut`:                                   "[unknown]",
	} {
		if got := execPath([]byte(in)); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, tt := range readTests {
		f.Add([]byte(tt.log))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Read(strings.NewReader(string(data)), Options{})
		if err != nil {
			return
		}
		if err := d.Validate(); err != nil {
			t.Fatal(err)
		}
		var calls uint64
		for i := range d.Programs {
			calls += d.Programs[i].Calls() + d.Programs[i].Losses.LostEvents
		}
		if lines := uint64(strings.Count(string(data), "\n")) + 1; calls > lines {
			t.Fatalf("%d calls in %d lines", calls, lines)
		}
	})
}

// TestReadReal reads what strace 6.1 wrote on Debian 12 for /bin/true.
func TestReadReal(t *testing.T) {
	f, err := os.Open("testdata/true.log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := Read(f, Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := summary(d)
	if *update {
		if err := os.WriteFile("testdata/true.txt", []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/true.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
