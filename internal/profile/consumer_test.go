package profile

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
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
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"bulkhead/internal/policy"
	"bulkhead/internal/seccomp"
	"bulkhead/internal/syscalls"
	"bulkhead/internal/testenv"
)

var fixtures *testenv.Fixtures

func TestMain(m *testing.M) {
	var err error
	if fixtures, err = testenv.NewFixtures(); err != nil {
		panic(err)
	}
	code := m.Run()
	fixtures.Close()
	os.Exit(code)
}

// wanted is what the filter of a policy says to each call: 0, or the error number.
func wanted(t *testing.T, p *policy.Policy, also ...string) map[int]unix.Errno {
	t.Helper()
	profile, err := Of(p)
	if err != nil {
		t.Fatal(err)
	}
	rules, _ := p.Rules(p.Programs[0].Path)
	want := map[int]unix.Errno{}
	for _, nr := range numbers() {
		want[nr] = rules.Errno(syscalls.AMD64, nr)
		name, _ := syscalls.Name(syscalls.AMD64, nr)
		if profile.Allows(policy.Number{ABI: syscalls.AMD64, NR: nr}) || slices.Contains(also, name) {
			want[nr] = 0
		}
	}
	return want
}

func compareAnswers(t *testing.T, want, got map[int]unix.Errno) {
	t.Helper()
	for _, nr := range numbers() {
		if got[nr] != want[nr] {
			name, _ := syscalls.Name(syscalls.AMD64, nr)
			t.Errorf("call %d %s: %q, want %q", nr, name, got[nr], want[nr])
		}
	}
}

// TestKernel asks the kernel about every call under the program that is exported.
func TestKernel(t *testing.T) {
	ask := fixtures.Build(t, "ask", "gcc -O2 -static testdata/ask.c")
	for _, file := range []string{"app.policy", "busybox.policy"} {
		t.Run(file, func(t *testing.T) {
			p := load(t, file)
			filter := filepath.Join(t.TempDir(), "filter.bpf")
			if err := os.WriteFile(filter, export(t, "bpf", p, Options{}), 0o666); err != nil {
				t.Fatal(err)
			}
			all := numbers()
			out, err := exec.Command(ask, filter, strconv.Itoa(all[len(all)-1])).CombinedOutput()
			if err != nil {
				t.Fatalf("ask: %v: %s", err, out)
			}
			got := map[int]unix.Errno{}
			for line := range strings.Lines(string(out)) {
				var nr, errno int
				fmt.Sscan(line, &nr, &errno)
				got[nr] = unix.Errno(errno)
			}
			if len(got) != len(all) {
				t.Fatalf("%d answers, want %d", len(got), len(all))
			}
			want := wanted(t, p)
			for _, name := range []string{"uretprobe", "uprobe"} { // which no filter is asked about
				nr, _ := syscalls.Number(syscalls.AMD64, name)
				got[nr] = want[nr]
			}
			compareAnswers(t, want, got)
		})
	}
}

// TestHeader compiles a shim with the header and compares each of its answers with the policy's.
func TestHeader(t *testing.T) {
	p := load(t, "app.policy")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "policy.h"), export(t, "c-header", p, Options{}), 0o666); err != nil {
		t.Fatal(err)
	}
	shim := fixtures.Build(t, "shim", "gcc -std=c99 -pedantic -Wall -Wextra -Werror -I"+dir+" testdata/shim.c")
	out, err := exec.Command(shim).Output()
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	for i, name := range []string{"app", "helper"} {
		rules, _ := p.Rules(p.Programs[i].Path)
		for id := range policy.ID(rules.Len()) {
			for nr := range syscalls.All(syscalls.AMD64) {
				if rules.Allows(id, syscalls.AMD64, nr) {
					fmt.Fprintf(&want, "%s %d %d\n", name, id, nr)
				}
			}
		}
	}
	if want.String() != string(out) {
		t.Errorf("the shim says\n%s\nthe policy\n%s", out, want.String())
	}
}

// TestSystemd lets systemd read the drop-in, and applies it by the groups of the systemd that is installed.
func TestSystemd(t *testing.T) {
	analyze := testenv.Tool(t, "systemd-analyze")
	for _, file := range []string{"app.policy", "busybox.policy"} {
		t.Run(file, func(t *testing.T) {
			dropIn := export(t, "systemd", load(t, file), Options{})
			dir := t.TempDir()
			unit := filepath.Join(dir, "bulkhead-test.service")
			text := "[Unit]\nDescription=test\n[Service]\nExecStart=/bin/true\n" + string(dropIn)
			if err := os.WriteFile(unit, []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(analyze, "verify", unit).CombinedOutput()
			if err != nil {
				t.Errorf("systemd-analyze verify: %v", err)
			}
			for line := range strings.Lines(string(out)) {
				// A call that is newer than the systemd is no mistake.
				if strings.Contains(line, unit) && !strings.Contains(line, "Failed to parse system call, ignoring") {
					t.Errorf("systemd-analyze verify: %s", line)
				}
			}
			allowed := systemdSet(t, analyze, dropIn)
			want := append(callsOf(t, load(t, file)), "execve")
			for nr, name := range syscalls.All(syscalls.AMD64) {
				if allowed[name] != slices.Contains(want, name) {
					t.Errorf("call %d %s: allowed %t, want %t", nr, name, allowed[name], !allowed[name])
				}
			}
		})
	}
}

// systemdSet applies a drop-in's lists as systemd.exec(5) says, with the members of groups that systemd-analyze tells.
func systemdSet(t *testing.T, analyze string, dropIn []byte) map[string]bool {
	t.Helper()
	members := func(group string) []string {
		out, err := exec.Command(analyze, "syscall-filter", group).Output()
		if err != nil {
			t.Fatalf("systemd-analyze syscall-filter %s: %v", group, err)
		}
		var names []string
		for line := range strings.Lines(string(out)) {
			if word := strings.TrimSpace(line); strings.HasPrefix(line, " ") && !strings.HasPrefix(word, "#") {
				names = append(names, word)
			}
		}
		return names
	}
	var expand func(words []string) []string
	expand = func(words []string) (out []string) {
		for _, word := range words {
			if strings.HasPrefix(word, "@") {
				out = append(out, expand(members(word))...)
			} else {
				out = append(out, word)
			}
		}
		return out
	}
	allowed := map[string]bool{}
	for _, name := range expand([]string{"@default"}) {
		allowed[name] = true
	}
	for line := range strings.Lines(string(dropIn)) {
		value, ok := strings.CutPrefix(strings.TrimSpace(line), "SystemCallFilter=")
		list, minus := strings.CutPrefix(value, "~")
		for _, name := range expand(strings.Fields(list)) {
			if ok {
				allowed[name] = !minus
			}
		}
	}
	return allowed
}

// containerRuntimes start containers. crun does not start in the hybrid hierarchy of control groups that some machines
// have, so it gets one of its own.
var containerRuntimes = map[string][]string{
	"runc": {"runc"},
	"crun": {"unshare", "-m", "sh", "-c", `mount -t cgroup2 none /sys/fs/cgroup && exec crun --cgroup-manager=disabled "$@"`, "sh"},
}

// bundle makes a container of busybox that runs a command under a profile.
func bundle(t *testing.T, profile []byte, newPrivileges bool, command ...string) string {
	t.Helper()
	busybox := testenv.Tool(t, "busybox")
	dir := t.TempDir()
	bin := filepath.Join(dir, "rootfs", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(testenv.Tool(t, "runc"), "spec", "--bundle", dir).CombinedOutput(); err != nil {
		t.Fatalf("runc spec: %v: %s", err, out)
	}
	file := filepath.Join(dir, "config.json")
	if data, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(data, &config); err != nil {
		t.Fatal(err)
	}
	process := config["process"].(map[string]any)
	process["terminal"], process["args"], process["noNewPrivileges"] = false, command, !newPrivileges
	config["root"].(map[string]any)["readonly"] = false
	config["linux"].(map[string]any)["seccomp"] = json.RawMessage(profile)
	if data, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o666); err != nil {
		t.Fatal(err)
	}
	return dir
}

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		testenv.Require(t, fmt.Errorf("this test starts containers, which needs root"))
	}
}

// TestContainers runs containers under the exported profile: what the policy allows works, a call outside fails, and the
// filter that the kernel has is the policy's, call by call.
func TestContainers(t *testing.T) {
	requireRoot(t)
	p := load(t, "busybox.policy")
	for name, words := range containerRuntimes {
		t.Run(name, func(t *testing.T) {
			testenv.Tool(t, name)
			run := func(dir string) *exec.Cmd {
				id := fmt.Sprintf("bulkhead-%s-%d", filepath.Base(filepath.Dir(dir)), time.Now().UnixNano())
				args := append(slices.Clone(words[1:]), "--root", filepath.Join(dir, "state"), "run", "--bundle", dir,
					"--pid-file", filepath.Join(dir, "pid"), id)
				return exec.Command(words[0], args...)
			}
			for _, newPrivileges := range []bool{false, true} {
				profile := export(t, "oci", p, Options{})
				out, err := run(bundle(t, profile, newPrivileges, "/bin/busybox", "echo", "hello")).CombinedOutput()
				if err != nil || string(out) != "hello\n" {
					t.Errorf("new privileges %t: an allowed workload fails: %v: %s", newPrivileges, err, out)
				}
				out, err = run(bundle(t, profile, newPrivileges, "/bin/busybox", "mkdir", "/x")).CombinedOutput()
				if err == nil || !strings.Contains(string(out), "Operation not permitted") {
					t.Errorf("new privileges %t: mkdir, which is not allowed: %v: %s", newPrivileges, err, out)
				}
			}
			dir := bundle(t, export(t, "oci", p, Options{}), false, "/bin/busybox", "sleep", "1000")
			compareAnswers(t, wanted(t, p, runtimeGroup()...), filterOf(t, run(dir), dir))
			dir = bundle(t, export(t, "oci", p, Options{NoRuntime: true}), false, "/bin/busybox", "sleep", "1000")
			if name == "crun" { // which needs nothing that the program does not
				compareAnswers(t, wanted(t, p), filterOf(t, run(dir), dir))
			}
		})
	}
}

// filterOf starts a container that sleeps, takes the filter of its process from the kernel, and asks that.
func filterOf(t *testing.T, cmd *exec.Cmd, dir string) map[int]unix.Errno {
	t.Helper()
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	for deadline := time.Now().Add(time.Minute); pid == 0; time.Sleep(20 * time.Millisecond) {
		data, _ := os.ReadFile(filepath.Join(dir, "pid"))
		n, _ := strconv.Atoi(strings.TrimSpace(string(data)))
		if words, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n)); n > 0 && strings.HasPrefix(string(words), "/bin/busybox\x00sleep") {
			pid = n
		}
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			t.Fatalf("the container does not start: %s", said.String())
		}
	}
	program, err := readFilter(pid)
	unix.Kill(pid, unix.SIGKILL)
	cmd.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return evaluate(t, program)
}

// readFilter returns the newest filter of a process: ptrace(2), PTRACE_SECCOMP_GET_FILTER.
func readFilter(pid int) ([]bpf.RawInstruction, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		return nil, fmt.Errorf("seize %d: %w", pid, err)
	}
	defer unix.PtraceDetach(pid)
	if err := unix.PtraceInterrupt(pid); err != nil {
		return nil, err
	}
	if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != nil {
		return nil, err
	}
	program := make([]bpf.RawInstruction, 4096)
	const getFilter = 0x420c
	n, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, getFilter, uintptr(pid), 0, uintptr(unsafe.Pointer(&program[0])), 0, 0)
	if errno != 0 {
		return nil, fmt.Errorf("get the filter of %d: %w", pid, errno)
	}
	return program[:n], nil
}

func evaluate(t *testing.T, program []bpf.RawInstruction) map[int]unix.Errno {
	t.Helper()
	instructions, ok := bpf.Disassemble(program)
	if !ok {
		t.Fatal("the kernel's filter does not disassemble")
	}
	vm, err := bpf.NewVM(instructions)
	if err != nil {
		t.Fatal(err)
	}
	got := map[int]unix.Errno{}
	for _, nr := range numbers() {
		data := make([]byte, 64) // struct seccomp_data, its words in network order, as the VM loads them
		binary.BigEndian.PutUint32(data, uint32(nr))
		binary.BigEndian.PutUint32(data[4:], unix.AUDIT_ARCH_X86_64)
		result, err := vm.Run(data)
		if err != nil {
			t.Fatal(err)
		}
		if action := seccomp.Action(uint32(result)); action != seccomp.Allow {
			got[nr] = unix.Errno(uint32(result) & 0xffff)
			if action != seccomp.Errno(got[nr]) {
				t.Errorf("call %d: %v", nr, action)
			}
		}
	}
	return got
}

// TestRuntimeGroup measures what the container runtimes do between their filter and the program.
func TestRuntimeGroup(t *testing.T) {
	requireRoot(t)
	strace := testenv.Tool(t, "strace")
	group := runtimeGroup()
	for name, words := range containerRuntimes {
		for _, newPrivileges := range []bool{false, true} {
			testenv.Tool(t, name)
			dir := bundle(t, export(t, "oci", load(t, "busybox.policy"), Options{}), newPrivileges, "/bin/busybox", "true")
			log := filepath.Join(dir, "log")
			args := append([]string{"-f", "-qq", "-o", log}, words...)
			args = append(args, "--root", filepath.Join(dir, "state"), "run", "--bundle", dir, fmt.Sprintf("bulkhead-%d", time.Now().UnixNano()))
			if out, err := exec.Command(strace, args...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", name, err, out)
			}
			calls := underFilter(t, log)
			if !slices.Contains(calls, "execve") {
				t.Errorf("%s: no execve under the filter: %v", name, calls)
			}
			for _, call := range calls {
				if !slices.Contains(group, call) {
					t.Errorf("%s, new privileges %t: %s is not in runtime.txt", name, newPrivileges, call)
				}
			}
		}
	}
}

// underFilter returns the calls in a log of strace from the installation of a filter to the next execve.
func underFilter(t *testing.T, log string) []string {
	t.Helper()
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var calls []string
	filtered := map[string]bool{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		pid, rest, _ := strings.Cut(lines.Text(), " ")
		name, arguments, ok := strings.Cut(strings.TrimSpace(rest), "(")
		if !ok || strings.ContainsAny(name, " <") {
			continue
		}
		if filtered[pid] {
			calls = append(calls, name)
			filtered[pid] = name != "execve"
		}
		if (name == "seccomp" && strings.HasPrefix(arguments, "SECCOMP_SET_MODE_FILTER") ||
			name == "prctl" && strings.HasPrefix(arguments, "PR_SET_SECCOMP")) && !strings.Contains(arguments, "NULL") {
			filtered[pid] = true
		}
	}
	return calls
}
