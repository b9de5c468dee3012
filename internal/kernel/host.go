package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// host reads what the kernel says about itself and this process, once each.
type host struct {
	once struct {
		status, child, lsms sync.Once
	}
	fields    map[string]string // of /proc/self/status
	statusErr error
	child     childProbe
	lsms      []string
	lsmsErr   error
}

func (h *host) version() (Version, error) {
	release, _, err := uname()
	if err != nil {
		return Version{}, err
	}
	return parseVersion(release)
}

func (h *host) kernelVersion() (string, error) {
	release, machine, err := uname()
	if err != nil {
		return "", err
	}
	version, err := parseVersion(release)
	if err != nil {
		return "", err
	}
	detail := release + " " + machine
	if version.Before(MinTrace) {
		return detail, fmt.Errorf("Linux %s is older than %s", version, MinTrace)
	}
	return detail, nil
}

// vmlinuxBTF is where the kernel shows its own types.
const vmlinuxBTF = "/sys/kernel/btf/vmlinux"

func (h *host) btf() (string, error) {
	info, err := os.Stat(vmlinuxBTF)
	if err != nil {
		return "", remedy(err, "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (Debian 11, Ubuntu 20.10, Fedora 31, RHEL 8.2 or later have it)")
	}
	return fmt.Sprintf("%s, %d bytes", vmlinuxBTF, info.Size()), nil
}

// lockdown reports the mode of kernel_lockdown(7). "integrity" leaves tracing
// alone; "confidentiality" forbids BPF programs to read kernel memory.
func (h *host) lockdown() (string, error) {
	text, err := readSecurityfs("lockdown")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "none: the kernel was built or booted without it", nil
	case err != nil:
		return "", &unknown{err}
	}
	_, mode, _ := strings.Cut(text, "[")
	mode, _, found := strings.Cut(mode, "]")
	if !found {
		return "", &unknown{fmt.Errorf("read the lockdown mode: no mode is marked in %q", text)}
	}
	if mode == "confidentiality" {
		return mode, remedy(errors.New("lockdown mode confidentiality"), "boot without lockdown=confidentiality (lockdown=integrity is fine)")
	}
	return mode, nil
}

// activeLSMs returns the Linux security modules in the kernel's order.
func (h *host) activeLSMs() ([]string, error) {
	h.once.lsms.Do(func() {
		text, err := readSecurityfs("lsm")
		h.lsms, h.lsmsErr = strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '\n' }), err
	})
	return h.lsms, h.lsmsErr
}

func (h *host) lsmList() (string, error) {
	lsms, err := h.activeLSMs()
	if err != nil {
		return "", &unknown{err}
	}
	detail := strings.Join(lsms, ",")
	if !slices.Contains(lsms, "bpf") {
		return detail, remedy(errors.New("bpf is not among the active security modules"), lsmBootRemedy(lsms))
	}
	return detail, nil
}

// lsmBootRemedy keeps the modules that are active now: lsm= replaces the list.
func lsmBootRemedy(active []string) string {
	list := slices.DeleteFunc(slices.Clone(active), func(name string) bool {
		return name == "capability" || name == "bpf" // capability is always first and not to be listed
	})
	return fmt.Sprintf("boot with the kernel parameter lsm=%s (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub)",
		strings.Join(append(list, "bpf"), ","))
}

// cgroupV2 finds where the unified hierarchy is mounted.
func (h *host) cgroupV2() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", &unknown{err}
	}
	point, found := cgroup2Mount(mounts)
	if !found {
		return "", remedy(errors.New("no cgroup2 file system is mounted"), "mount -t cgroup2 none /sys/fs/cgroup")
	}
	if unix.Access(point, unix.W_OK) != nil {
		return point + ", not writable by this user", nil
	}
	return point, nil
}

// cgroup2Mount returns the first cgroup2 mount point in the text of
// /proc/PID/mountinfo (proc_pid_mountinfo(5)).
func cgroup2Mount(mountinfo []byte) (point string, found bool) {
	for line := range bytes.Lines(mountinfo) {
		before, after, _ := bytes.Cut(line, []byte(" - "))
		fields := bytes.Fields(before)
		if len(fields) > 4 && bytes.HasPrefix(after, []byte("cgroup2 ")) {
			return string(fields[4]), true
		}
	}
	return "", false
}

// readSecurityfs reads a file of securityfs. Where that is not mounted and this
// process may mount, the file is read through a mount that no path leads to.
func readSecurityfs(name string) (string, error) {
	const mounted = "/sys/kernel/security/"
	var stat unix.Statfs_t
	if unix.Statfs(mounted, &stat) == nil && stat.Type == unix.SECURITYFS_MAGIC {
		text, err := os.ReadFile(mounted + name)
		return strings.TrimSpace(string(text)), err
	}
	context, err := unix.Fsopen("securityfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("securityfs is not mounted and this user cannot mount it: %w", err)
	}
	defer unix.Close(context)
	if err := unix.FsconfigCreate(context); err != nil {
		return "", fmt.Errorf("open securityfs: %w", err)
	}
	root, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return "", fmt.Errorf("open securityfs: %w", err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat(root, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: "securityfs/" + name, Err: err}
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, 4096))
	return strings.TrimSpace(string(text)), err
}

// sysctl returns the value below /proc/sys, or "absent" or "unreadable".
func sysctl(path string) string {
	text, err := os.ReadFile("/proc/sys/" + path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "absent"
	case err != nil:
		return "unreadable"
	}
	return strings.TrimSpace(string(text))
}

// status returns a field of /proc/self/status, "" if the kernel does not show it.
func (h *host) status(field string) (string, error) {
	h.once.status.Do(func() {
		text, err := os.ReadFile("/proc/self/status")
		if err != nil {
			h.statusErr = err
			return
		}
		h.fields = map[string]string{}
		for line := range strings.Lines(string(text)) {
			if key, value, found := strings.Cut(line, ":"); found {
				h.fields[key] = strings.TrimSpace(value)
			}
		}
	})
	return h.fields[field], h.statusErr
}

// capabilitySet reads CapEff, CapBnd and their like.
func (h *host) capabilitySet(field string) (capabilitySet, error) {
	text, err := h.status(field)
	if err != nil {
		return 0, err
	}
	set, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s of /proc/self/status: %w", field, err)
	}
	return capabilitySet(set), nil
}
