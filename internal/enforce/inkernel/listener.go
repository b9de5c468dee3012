package inkernel

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"bulkhead/internal/policy"
	"bulkhead/internal/ptrace"
	"bulkhead/internal/seccomp"
	"bulkhead/internal/syscalls"
)

// newFilter returns the seccomp filter of a target. It stays when a process executes another image, so it refuses what no
// image of the policy allows to any compartment. What it hands to the listener is refused too when there is no listener
// any more: then the call fails with ENOSYS.
func newFilter(f *filters, answer policy.OnViolation) *seccomp.Filter {
	filter := &seccomp.Filter{Default: seccomp.KillProcess, Defaults: map[syscalls.ABI]seccomp.Action{}}
	for _, abi := range abis {
		filter.Defaults[abi] = seccomp.Notify
		if answer == policy.Audit {
			filter.Defaults[abi] = seccomp.Allow
		}
		for index := range len(f.rows[0].Calls[0]) * 64 {
			nr := number(abi, index)
			rule := seccomp.Rule{ABI: abi, NR: nr, Action: seccomp.Allow, Cases: casesOf(abi, nr)}
			if answer == policy.Audit && rule.Cases == nil || answer != policy.Audit && !f.anyAllows(abi, nr) {
				continue
			}
			filter.Rules = append(filter.Rules, rule)
		}
	}
	return filter
}

// anyAllows tells whether some compartment of some image may make a call.
func (f *filters) anyAllows(abi syscalls.ABI, nr int) bool {
	for _, i := range f.images {
		if i.rules.Class(abi, nr) != policy.AllowedToNone {
			return true
		}
	}
	return false
}

// before names the calls that bring code which may not have been loaded yet: they wait for the listener. Files that become
// executable in other ways (mprotect of a mapping that was not) stay unknown unless they are loaded already.
var before = map[string][]seccomp.Test{
	"mmap":     {seccomp.Argument(2, unix.PROT_EXEC, unix.PROT_EXEC)},
	"mmap2":    {seccomp.Argument(2, unix.PROT_EXEC, unix.PROT_EXEC)},
	"execve":   {seccomp.Argument(0, 0, 0)},
	"execveat": {seccomp.Argument(0, 0, 0)},
}

func casesOf(abi syscalls.ABI, nr int) []seccomp.Case {
	name, _ := syscalls.Name(abi, nr)
	if abi == syscalls.I386 && name == "mmap" { // takes a pointer to its arguments
		return nil
	}
	var cases []seccomp.Case
	if name == "mmap" || name == "mmap2" { // of memory without a file: nothing to load
		cases = append(cases, seccomp.Case{Test: seccomp.Argument(3, unix.MAP_ANONYMOUS, unix.MAP_ANONYMOUS), Action: seccomp.Allow})
	}
	for _, test := range before[name] {
		cases = append(cases, seccomp.Case{Test: test, Action: seccomp.Notify})
	}
	return cases
}

// notification is struct seccomp_notif.
type notification struct {
	id    uint64
	pid   uint32 // the thread, in the listener's PID namespace; 0: it has none there
	flags uint32
	call  struct {
		nr   int32
		arch uint32
		ip   uint64
		args [6]uint64
	}
}

// answer is struct seccomp_notif_resp.
type response struct {
	id    uint64
	value int64
	errno int32 // negative
	flags uint32
}

const (
	ioctlReceive = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	ioctlSend    = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
	goOn         = 1          // SECCOMP_USER_NOTIF_FLAG_CONTINUE
)

// listen answers the calls that the filter hands over until no task is under the filter any more. answer returns the
// error that the call shall fail with, or 0.
func listen(fd int, answer func(*notification) unix.Errno) error {
	defer unix.Close(fd)
	for {
		var n notification
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for a call: %w", err)
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			if poll[0].Revents&unix.POLLHUP != 0 {
				return nil
			}
			continue
		}
		switch err := ioctl(fd, ioctlReceive, unsafe.Pointer(&n)); {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINTR): // its thread was killed
			continue
		case err != nil:
			return fmt.Errorf("take a call: %w", err)
		}
		go func() {
			r := response{id: n.id}
			if errno := answer(&n); errno != 0 {
				r.errno = -int32(errno)
			} else {
				r.flags = goOn
			}
			_ = ioctl(fd, ioctlSend, unsafe.Pointer(&r)) // the thread may have been killed
		}()
	}
}

func ioctl(fd int, request uintptr, argument unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument)); e != 0 {
		return e
	}
	return nil
}

// abi returns that of the call.
func (n *notification) abi() syscalls.ABI {
	switch {
	case n.call.arch == unix.AUDIT_ARCH_I386:
		return syscalls.I386
	case n.call.nr&syscalls.X32Bit != 0:
		return syscalls.X32
	}
	return syscalls.AMD64
}

// mapped opens the file that a mmap is about to map, and returns its path too.
func (n *notification) mapped() (*os.File, string, error) {
	link := fmt.Sprintf("/proc/%d/fd/%d", n.pid, int32(n.call.args[4]))
	path, err := os.Readlink(link)
	if err != nil {
		return nil, "", err
	}
	file, err := os.Open(link)
	return file, path, err
}

// memory reads a string of the thread.
func (n *notification) memory(address uint64, limit int) (s string, whole bool, err error) {
	return ptrace.ReadString(int(n.pid), address, limit)
}
