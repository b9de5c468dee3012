package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// capabilitySet is one of the sets of capabilities(7), bit n for capability n.
type capabilitySet uint64

func (s capabilitySet) has(capability uint) bool { return s>>capability&1 != 0 }

// can tells whether the set grants one of the given capabilities.
func (s capabilitySet) can(capabilities ...uint) bool {
	for _, capability := range capabilities {
		if s.has(capability) {
			return true
		}
	}
	return false
}

// wanted are the capabilities that Bulkhead makes use of.
var wanted = []struct {
	capability uint
	name       string
}{
	{unix.CAP_BPF, "cap_bpf"},
	{unix.CAP_PERFMON, "cap_perfmon"},
	{unix.CAP_SYS_ADMIN, "cap_sys_admin"},
	{unix.CAP_SYS_PTRACE, "cap_sys_ptrace"},
	{unix.CAP_NET_ADMIN, "cap_net_admin"},
	{unix.CAP_SYS_RESOURCE, "cap_sys_resource"},
}

// String lists the members that Bulkhead makes use of.
func (s capabilitySet) String() string {
	var names []string
	for _, w := range wanted {
		if s.has(w.capability) {
			names = append(names, w.name)
		}
	}
	return cmp.Or(strings.Join(names, ","), "none")
}

// canTrace tells whether the set lets a process load tracing programs.
func (s capabilitySet) canTrace() bool {
	return s.can(unix.CAP_BPF, unix.CAP_SYS_ADMIN) && s.can(unix.CAP_PERFMON, unix.CAP_SYS_ADMIN)
}

// capabilities needs CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN for both.
func (p *prober) capabilities() (string, error) {
	effective, err := p.capabilitySet("CapEff")
	if err != nil {
		return "", &unknown{err}
	}
	bounding, err := p.capabilitySet("CapBnd")
	if err != nil {
		return "", &unknown{err}
	}
	detail := "has " + effective.String()
	if bounding != effective {
		detail += "; could have " + bounding.String()
	}
	if !inInitialNamespace("user") {
		return detail, remedy(errors.New("the capabilities are those of a user namespace, which do not reach bpf(2)"), p.privilegeRemedy(bounding))
	}
	if !effective.canTrace() {
		return detail, remedy(errors.New("neither cap_bpf and cap_perfmon nor cap_sys_admin is effective"), p.privilegeRemedy(bounding))
	}
	return detail, nil
}

// privilegeRemedy says how this process would get the capabilities that it lacks.
func (p *prober) privilegeRemedy(bounding capabilitySet) string {
	nnp, _ := p.status("NoNewPrivs")
	switch {
	case !inInitialNamespace("user"):
		return "run outside this user namespace (a rootless container, or unshare)"
	case !bounding.canTrace():
		return "give the container the capabilities, with docker or podman: --cap-add=BPF --cap-add=PERFMON --cap-add=SYS_PTRACE"
	case nnp == "1":
		return "run as root, from a shell without no_new_privs (which disables sudo and file capabilities)"
	}
	program, err := os.Executable()
	if err != nil {
		program = "bulkhead"
	}
	return "run as root, or once: setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_net_admin+ep " + program
}

// initialNamespaces holds the inode numbers of the namespaces that the machine
// booted with (include/linux/proc_ns.h).
var initialNamespaces = map[string]string{
	"user":   "user:[4026531837]",
	"pid":    "pid:[4026531836]",
	"cgroup": "cgroup:[4026531835]",
}

// inInitialNamespace is true as well where /proc does not tell.
func inInitialNamespace(kind string) bool {
	link, err := os.Readlink("/proc/self/ns/" + kind)
	return err != nil || link == initialNamespaces[kind]
}

// noNewPrivs can be set by every process, for seccomp filters without
// privileges; what matters is whether it is set already.
func (p *prober) noNewPrivs() (string, error) {
	switch value, err := p.status("NoNewPrivs"); {
	case err != nil:
		return "", &unknown{err}
	case value == "":
		return "", errors.New("/proc/self/status does not show it")
	case value == "1":
		return "set: sudo and file capabilities have no effect here", nil
	}
	return "can be set; not set now", nil
}

// memlock limited BPF maps before 5.11; tracing needs a newer kernel anyway.
func (p *prober) memlock() (string, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return "", &unknown{fmt.Errorf("getrlimit RLIMIT_MEMLOCK: %w", err)}
	}
	detail := fmt.Sprintf("limit %d bytes", limit.Cur)
	if limit.Cur == unix.RLIM_INFINITY {
		detail = "unlimited"
	}
	version, err := p.version()
	if err == nil && version.Before(Version{5, 11}) {
		if limit.Cur != unix.RLIM_INFINITY {
			return detail, remedy(errors.New("this kernel charges BPF memory to RLIMIT_MEMLOCK"), "ulimit -l unlimited")
		}
		return detail, nil
	}
	return detail + "; BPF memory is not charged to it since Linux 5.11", nil
}

// container collects hints. None of them hinders by itself.
func (p *prober) container() (string, error) {
	var hints []string
	for _, file := range []string{"/.dockerenv", "/run/.containerenv", "/run/systemd/container"} {
		if _, err := os.Stat(file); err == nil {
			hints = append(hints, file)
		}
	}
	for _, kind := range []string{"user", "pid", "cgroup"} {
		if !inInitialNamespace(kind) {
			hints = append(hints, kind+" namespace")
		}
	}
	if mode, _ := p.status("Seccomp"); mode == "2" {
		hints = append(hints, "seccomp filter")
	}
	if len(hints) == 0 {
		return "no sign of one", nil
	}
	return "likely: " + strings.Join(hints, ", "), nil
}
