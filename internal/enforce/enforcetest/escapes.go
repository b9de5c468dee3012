package enforcetest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/internal/testenv"
)

// EscapesPolicy allows getppid to the libraries only.
func EscapesPolicy(program, file, libraries string) string {
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

// BothLibraries are those of EscapesPolicy that may call getppid.
const BothLibraries = `["libb.so", "libplugin.so"]`

// WaysAround tries ways around the filter. None may work.
func (b *Backend) WaysAround(t *testing.T) {
	program, _ := b.Escapes(t)
	for _, e := range []struct{ way, says string }{
		{"direct", "escapes may not call getppid"}, {"jit", "[anonymous] may not call getppid"},
		{"later", "[anonymous] may not call getppid"}, {"memfd", "[memfd:code] may not call getppid"},
		{"over", "[anonymous] may not call getppid"}, {"x32", "may not call x32:getppid"},
		{"io_uring", "may not call io_uring_setup"}, {"ptrace", "may not call ptrace"},
		{"vm_writev", "may not call process_vm_writev"}, {"thread", "escapes may not call getppid"},
		{"fork", "escapes may not call getppid"}, {"vfork", "escapes may not call getppid"},
		{"clone", "escapes may not call getppid"}, {"signal", "escapes may not call getppid"},
		{"context", "escapes may not call getppid"}, {"compat", "may not call i386:getppid"}, {"forged", "may not call getppid"}, {"changed", "may not call execve"},
	} {
		t.Run(e.way, func(t *testing.T) {
			if e.way == "compat" && Prebuilt == "" { // it works in the virtual machine
				testenv.RequireCompat(t)
			}
			file := filepath.Join(b.folder(t), "program")
			copyFile(t, b.Nothing(t), file)
			b.own(t, file)
			out := b.Govern(t, EscapesPolicy(program, file, BothLibraries), program, e.way, file)
			if out.Status != 128+int(unix.SIGKILL) || strings.Contains(out.Stdout, "escaped") ||
				!strings.Contains(out.Stderr, e.says) {
				t.Errorf("status %d, %q\n%s", out.Status, out.Stdout, out.Stderr)
			}
			t.Log(out.Stderr)
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

// Stress: tests run at the size that make stress asks for, which takes minutes.
var Stress = os.Getenv("BULKHEAD_STRESS") != ""

// NoFalseDenial has a program do much that is allowed.
func (b *Backend) NoFalseDenial(t *testing.T) {
	program, plugin := b.Escapes(t)
	forks := 1000
	if Stress {
		forks = 10000
	}
	for _, c := range []struct {
		way string
		n   int
	}{{"threads", 1000}, {"forks", forks}, {"plugins", 1000}} {
		t.Run(c.way, func(t *testing.T) {
			if Prebuilt != "" {
				c.n /= 10 // the virtual machine is that much slower
			}
			out := b.Govern(t, EscapesPolicy(program, b.Nothing(t), BothLibraries), program, c.way, plugin, strconv.Itoa(c.n))
			if out.Status != 0 || out.Stderr != "" {
				t.Errorf("status %d, %q\n%s", out.Status, out.Stdout, out.Stderr)
			}
		})
	}
}

// NoFalseDenialWhileBusy has n threads make calls that are allowed while others map, unmap and fork without a pause.
func (b *Backend) NoFalseDenialWhileBusy(t *testing.T, n int) {
	program, plugin := b.Escapes(t)
	out := b.Govern(t, EscapesPolicy(program, b.Nothing(t), BothLibraries), program, "busy", plugin, strconv.Itoa(n))
	if out.Status != 0 || out.Stderr != "" {
		t.Errorf("status %d, %q\n%s", out.Status, out.Stdout, out.Stderr)
	}
}
