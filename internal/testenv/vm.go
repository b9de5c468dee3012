package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Kernel is a Debian cloud kernel that a virtual machine boots. The value is
// the folder of its image below .cache/kernels.
type Kernel string

const (
	Kernel61  Kernel = "6.1"  // Debian 12
	Kernel612 Kernel = "6.12" // Debian 12's backport
)

// Kernels lists every kernel that tests boot, oldest first.
var Kernels = []Kernel{Kernel61, Kernel612}

// vmParameters are the kernel's parameters. Debian's own list of security
// modules has no bpf. The kernel's test of its timer fails, and it panics, when
// the host is too busy to run the emulated processor for a moment.
var vmParameters = []string{
	"console=ttyS0", "loglevel=6", "panic=-1", "rdinit=/init", "mitigations=off",
	"no_timer_check", "lsm=landlock,lockdown,yama,bpf",
}

// ModuleRoot returns the folder that holds this module's go.mod.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the module root: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find the module root: no go.mod above the working directory")
		}
		dir = parent
	}
}

// BootVM boots kernel in an emulated machine, runs cmd there as root with the
// given files, and returns what it wrote to stdout and stderr, in that one
// stream's order, and its exit status (128 + n when signal n ended it).
//
// files maps a path in the guest to a file or folder on this machine; modes
// are kept, and symbolic links are followed. Nothing but busybox, /proc, /sys
// and a tmpfs is there besides: cmd[0] is a static program or comes with what
// [Closure] adds. timeout limits the whole run of the machine, boot included.
// parameters are added to the kernel's command line, where the last of a kind counts.
//
// The test is skipped where qemu or the kernel image is missing (it fails there
// when CI is set), and fails when the machine dies or exceeds timeout.
func BootVM(t testing.TB, kernel Kernel, files map[string]string, cmd []string, timeout time.Duration, parameters ...string) (output string, exit int) {
	t.Helper()
	if testing.Short() {
		t.Skip("booting a virtual machine takes seconds: not run with -short")
	}
	vm, err := newMachine(kernel, t.TempDir())
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if err := vm.pack(files, cmd); err != nil {
		t.Fatal(err)
	}
	unlock, err := lockMachines(filepath.Dir(vm.image))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	output, exit, err = vm.run(timeout, parameters)
	if err != nil {
		t.Fatalf("Linux %s: %v\noutput:\n%s\nkernel log:\n%s", kernel, err, output, vm.consoleTail())
	}
	return output, exit
}

// machine is one virtual machine: what it boots from and writes to.
type machine struct {
	qemu, busybox string
	image         string // the kernel
	initrd        string
	console       string // the kernel's log
	serial        string // the command's output, then the end mark
	mark          string
}

// newMachine finds what a machine is made of. Its error says what to install.
func newMachine(kernel Kernel, dir string) (*machine, error) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return nil, errors.New("qemu-system-x86_64 is missing: apt-get install qemu-system-x86")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, errors.New("busybox is missing: apt-get install busybox-static")
	}
	root, err := ModuleRoot()
	if err != nil {
		return nil, err
	}
	image := filepath.Join(root, ".cache", "kernels", string(kernel), "vmlinuz")
	if _, err := os.Stat(image); err != nil {
		return nil, fmt.Errorf("the image of Linux %s is missing: run internal/testenv/vm-kernels.sh", kernel)
	}
	return &machine{
		qemu:    qemu,
		busybox: busybox,
		image:   image,
		initrd:  filepath.Join(dir, "initrd"),
		console: filepath.Join(dir, "console"),
		serial:  filepath.Join(dir, "serial"),
		mark:    "end-of-" + strconv.FormatInt(time.Now().UnixNano(), 36) + " ",
	}, nil
}

// initScript is the guest's process 1. The kernel's log has ttyS0; ttyS1 is the
// command's own, so that the two never mix. The command writes to a pipe, as to
// a test on this machine, and not to a terminal.
const initScript = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp
mount -t tmpfs shm /dev/shm
mount -t securityfs none /sys/kernel/security
mount -t tracefs none /sys/kernel/tracing
mount -t bpf none /sys/fs/bpf
mount -t cgroup2 none /sys/fs/cgroup
ip link set lo up
hostname bulkhead-vm
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root USER=root LANG=C.UTF-8
stty -F /dev/ttyS1 raw -echo
{ %s; echo "%s$?"; } </dev/null 2>&1 | cat >/dev/ttyS1
poweroff -f
`

// pack writes the initial RAM file system: busybox, files and the script that
// runs cmd. It is not compressed: unpacking costs more than reading when the
// processor is emulated.
func (m *machine) pack(files map[string]string, cmd []string) (err error) {
	out, err := os.Create(m.initrd)
	if err != nil {
		return fmt.Errorf("create the initial RAM disk: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()

	archive := newCPIO(out)
	for _, dir := range []string{"proc", "sys", "dev", "tmp", "root", "etc", "run"} {
		archive.dir(dir)
	}
	archive.bytes("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n"))
	archive.bytes("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	archive.file("bin/busybox", m.busybox)
	archive.bytes("init", 0o755, fmt.Appendf(nil, initScript, shellQuote(cmd), m.mark))
	for guest, host := range files {
		archive.tree(guest, host)
	}
	if err := archive.close(); err != nil {
		return fmt.Errorf("write the initial RAM disk: %w", err)
	}
	return nil
}

// run boots the machine and waits until it powers off.
func (m *machine) run(timeout time.Duration, parameters []string) (output string, exit int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	command := exec.CommandContext(ctx, m.qemu,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		// One processor: attaching to a tracepoint patches running kernel code, and TCG now and then lets another
		// processor run into the breakpoint that stands there meanwhile.
		"-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "2048",
		"-device", "virtio-rng-pci",
		"-kernel", m.image, "-initrd", m.initrd,
		"-append", strings.Join(append(slices.Clone(vmParameters), parameters...), " "),
		"-serial", "file:"+m.console, "-serial", "file:"+m.serial)
	// A test binary that is killed must not leave an emulator behind. The signal
	// follows the thread that forked, so that one has to stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	command.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	said, runErr := command.CombinedOutput()
	written, err := os.ReadFile(m.serial)
	if err != nil {
		return "", 0, fmt.Errorf("start %s: %w: %s", filepath.Base(m.qemu), errors.Join(runErr, err), said)
	}
	body, status, ended := bytes.Cut(written, []byte(m.mark))
	switch {
	case ctx.Err() != nil:
		return string(body), 0, fmt.Errorf("the virtual machine did not power off in %v", timeout)
	case runErr != nil:
		return string(body), 0, fmt.Errorf("run %s: %w: %s", filepath.Base(m.qemu), runErr, said)
	case !ended:
		return string(body), 0, errors.New("the virtual machine stopped before the command ended")
	}
	exit, err = strconv.Atoi(strings.TrimSpace(string(status)))
	if err != nil {
		return string(body), 0, fmt.Errorf("read the command's exit status: %w", err)
	}
	return string(body), exit, nil
}

// consoleTail returns the end of the kernel's log.
func (m *machine) consoleTail() string {
	log, err := os.ReadFile(m.console)
	if err != nil {
		return err.Error()
	}
	const keep = 4 << 10
	return string(log[max(0, len(log)-keep):])
}

// lockMachines lets one virtual machine run at a time over all test processes:
// emulated processors that compete make every timeout a guess.
func lockMachines(dir string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(dir, "..", "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the virtual machines' lock: %w", err)
	}
	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	return func() { file.Close() }, nil
}

// shellQuote returns the words as one shell command.
func shellQuote(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}

// Closure adds program to files under its own path, with the dynamic loader and
// every shared library that ldd(1) lists for it. A static program is added alone.
// What it loads by dlopen(3) is added by a call for each such library's path.
func Closure(t testing.TB, files map[string]string, program string) {
	t.Helper()
	path := program
	if !filepath.IsAbs(path) {
		found, err := exec.LookPath(program)
		if err == nil {
			path, err = filepath.Abs(found)
		}
		if err != nil {
			t.Fatalf("find %s: %v", program, err)
		}
	}
	files[path] = path
	listed, err := exec.Command("ldd", path).CombinedOutput()
	if bytes.Contains(listed, []byte("not a dynamic executable")) || bytes.Contains(listed, []byte("statically linked")) {
		return
	}
	if err != nil {
		t.Fatalf("ldd %s: %v: %s", path, err, listed)
	}
	for line := range strings.Lines(string(listed)) {
		for field := range strings.FieldsSeq(line) {
			if strings.HasPrefix(field, "/") {
				files[field] = field
				break
			}
		}
	}
}

var built sync.Map // package pattern and kind → func() (string, error)

// BuildTest compiles the tests of the package in folder pkg (relative to the
// module root) into a static binary, once a test process, and returns its path.
func BuildTest(t testing.TB, pkg string) string {
	t.Helper()
	return build(t, pkg, "test", "-c")
}

// BuildProgram compiles the program in folder pkg (relative to the module root)
// into a static binary, once a test process, and returns its path.
func BuildProgram(t testing.TB, pkg string) string {
	t.Helper()
	return build(t, pkg, "build")
}

func build(t testing.TB, pkg string, verb ...string) string {
	t.Helper()
	once, _ := built.LoadOrStore(pkg+verb[0], sync.OnceValues(func() (string, error) {
		root, err := ModuleRoot()
		if err != nil {
			return "", err
		}
		// Shared by the tests of this process, so not a t.TempDir.
		dir := filepath.Join(root, ".cache", "vm", verb[0])
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
		out := filepath.Join(dir, strings.ReplaceAll(filepath.Clean(pkg), "/", "-"))
		// Several test processes may build the same: each gets a whole file.
		own := fmt.Sprintf("%s.%d", out, os.Getpid())
		command := exec.Command("go", append(verb, "-o", own, "./"+pkg)...)
		command.Dir = root
		command.Env = append(os.Environ(), "CGO_ENABLED=0")
		if said, err := command.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go %s %s: %w: %s", verb[0], pkg, err, said)
		}
		return out, os.Rename(own, out)
	}))
	path, err := once.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
