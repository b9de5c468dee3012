package kernel

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// seccompFilter installs a filter that allows everything, as an unprivileged
// process would: after no_new_privs.
func (p *prober) seccompFilter() (string, error) {
	if _, err := installAllowAll(0); err != nil {
		return "", remedy(err, "boot a kernel built with CONFIG_SECCOMP_FILTER=y, or allow seccomp(2) in the filter that this process runs under")
	}
	return "installs", nil
}

// seccompTrace asks for the action that stops a thread in its ptrace(2) tracer.
func (p *prober) seccompTrace() (string, error) {
	action := uint32(unix.SECCOMP_RET_TRACE)
	_, _, number := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	if number != 0 {
		return "", fmt.Errorf("ask for SECCOMP_RET_TRACE: %w", number)
	}
	return "SECCOMP_RET_TRACE is known", nil
}

func (p *prober) seccompNotify() (string, error) {
	listener, err := installAllowAll(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
	if errors.Is(err, unix.EBUSY) {
		return "", fmt.Errorf("%w: a filter above this process has the only listener", err)
	}
	if err != nil {
		return "", err
	}
	unix.Close(listener)
	return "installs", nil
}

// installAllowAll installs a seccomp filter that allows every call, with flags,
// on a thread that ends right after. It returns seccomp's own result.
func installAllowAll(flags uintptr) (result int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread and its filter end with the goroutine.
		runtime.LockOSThread()
		if err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			err = fmt.Errorf("set no_new_privs: %w", err)
			return
		}
		allow := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
		filter := unix.SockFprog{Len: 1, Filter: &allow}
		fd, _, number := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&filter)))
		if number != 0 {
			err = fmt.Errorf("install a filter: %w", number)
		}
		result = int(fd)
	}()
	<-done
	return result, err
}
