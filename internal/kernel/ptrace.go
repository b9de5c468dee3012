package kernel

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// childProbe is what could be done to a child of ours.
type childProbe struct {
	seize, read error
}

// inspectChild tries ptrace(2) and process_vm_readv(2) on a child. The child is
// this program, stopped by the kernel before its first instruction and killed
// without ever running one.
func (h *host) inspectChild() childProbe {
	h.once.child.Do(func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // a tracer is a thread
			defer runtime.UnlockOSThread()
			h.child = inspectChild()
		}()
		<-done
	})
	return h.child
}

func inspectChild() (result childProbe) {
	child, err := os.StartProcess("/proc/self/exe", []string{"bulkhead-probe"}, &os.ProcAttr{
		Sys: &unix.SysProcAttr{Ptrace: true, Pdeathsig: unix.SIGKILL},
	})
	if err != nil {
		err = fmt.Errorf("start a traced child: %w", err)
		return childProbe{seize: err, read: err}
	}
	defer func() {
		child.Kill()
		child.Wait()
	}()
	result.seize = reseize(child.Pid)
	result.read = readStack(child.Pid)
	return result
}

// reseize lets go of a child that stops at its execve and seizes it again,
// keeping it stopped between the two.
func reseize(pid int) error {
	if err := waitStopped(pid, 0); err != nil {
		return err
	}
	if err := ptrace(unix.PTRACE_DETACH, pid, uintptr(unix.SIGSTOP)); err != nil {
		return fmt.Errorf("PTRACE_DETACH: %w", err)
	}
	if err := waitStopped(pid, unix.WUNTRACED); err != nil {
		return err
	}
	if err := ptrace(unix.PTRACE_SEIZE, pid, unix.PTRACE_O_TRACESECCOMP|unix.PTRACE_O_EXITKILL); err != nil {
		return fmt.Errorf("PTRACE_SEIZE: %w", err)
	}
	return nil
}

func ptrace(request, pid int, data uintptr) error {
	if _, _, number := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(pid), 0, data, 0, 0); number != 0 {
		return number
	}
	return nil
}

func waitStopped(pid, options int) error {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, options, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for a traced child: %w", err)
		}
		if !status.Stopped() {
			return fmt.Errorf("wait for a traced child: it did not stop (status %#x)", int(status))
		}
		return nil
	}
}

// readStack reads the last word of a stopped child's stack.
func readStack(pid int) error {
	maps, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/maps")
	if err != nil {
		return err
	}
	end, err := stackEnd(string(maps))
	if err != nil {
		return err
	}
	var word [8]byte
	local := []unix.Iovec{{Base: &word[0]}}
	local[0].SetLen(len(word))
	remote := []unix.RemoteIovec{{Base: uintptr(end) - uintptr(len(word)), Len: len(word)}}
	n, err := unix.ProcessVMReadv(pid, local, remote, 0)
	if err != nil {
		return fmt.Errorf("process_vm_readv: %w", err)
	}
	if n != len(word) {
		return fmt.Errorf("process_vm_readv: read %d of %d bytes", n, len(word))
	}
	return nil
}

// stackEnd returns the address after the main thread's stack in the text of
// /proc/PID/maps.
func stackEnd(maps string) (uint64, error) {
	for line := range strings.Lines(maps) {
		if !strings.HasSuffix(line, "[stack]\n") {
			continue
		}
		_, rest, _ := strings.Cut(line, "-")
		text, _, _ := strings.Cut(rest, " ")
		return strconv.ParseUint(text, 16, 64)
	}
	return 0, errors.New("the child's maps show no stack")
}

func (p *prober) ptraceSeize() (string, error) {
	if err := p.inspectChild().seize; err != nil {
		return "", p.ptraceRemedy(err)
	}
	return "seizes a child", nil
}

func (p *prober) processVMReadv() (string, error) {
	if err := p.inspectChild().read; err != nil {
		return "", p.ptraceRemedy(err)
	}
	return "reads a child's stack", nil
}

func (p *prober) ptraceRemedy(err error) error {
	switch mode, _ := p.status("Seccomp"); {
	case yamaScope() == "2" || yamaScope() == "3":
		return remedy(err, yamaRemedy(yamaScope()))
	case mode == "2":
		return remedy(err, "allow ptrace(2) in the seccomp filter that this process runs under, with docker or podman: --cap-add=SYS_PTRACE")
	case errors.Is(err, unix.ENOSYS):
		return remedy(err, "boot a kernel built with CONFIG_CROSS_MEMORY_ATTACH=y")
	}
	return err
}

// yamaScope returns kernel.yama.ptrace_scope (Documentation/admin-guide/LSM/Yama).
func yamaScope() string { return sysctl("kernel/yama/ptrace_scope") }

func yamaRemedy(scope string) string {
	if scope == "3" {
		return "reboot: kernel.yama.ptrace_scope=3 cannot be lowered; set it to 1 in /etc/sysctl.d"
	}
	return "sysctl -w kernel.yama.ptrace_scope=1, or run with cap_sys_ptrace"
}

// yama restricts which processes ptrace may reach besides children.
func (p *prober) yama() (string, error) {
	effective, err := p.capabilitySet("CapEff")
	if err != nil {
		return "", &unknown{err}
	}
	privileged := effective.has(unix.CAP_SYS_PTRACE)
	switch scope := yamaScope(); {
	case scope == "absent":
		return "not active: same-user processes can be attached to", nil
	case scope == "0":
		return "ptrace_scope 0: same-user processes can be attached to", nil
	case scope == "3":
		return "ptrace_scope 3: no process can be traced", remedy(errors.New("ptrace_scope is 3"), yamaRemedy(scope))
	case privileged:
		return "ptrace_scope " + scope + ", which cap_sys_ptrace overrides", nil
	case scope == "1":
		return "ptrace_scope 1: children only, no --pid", nil
	case scope == "2":
		return "ptrace_scope 2: only with cap_sys_ptrace", remedy(errors.New("ptrace_scope is 2"), yamaRemedy(scope))
	default:
		return "", &unknown{fmt.Errorf("read kernel.yama.ptrace_scope: %s", scope)}
	}
}
