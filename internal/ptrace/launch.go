package ptrace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Launch starts a command with the environment, the folder and the standard files of this process and calls ready while
// it is stopped behind its execve, before its first instruction. After that nothing of ptrace is left.
func Launch(path string, argv []string, ready func(pid int) error) (*os.Process, error) {
	// All requests to a traced child must come from the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child, err := os.StartProcess(path, argv, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		var pathErr *os.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		return nil, &ExecError{path, err}
	}
	_, status, err := wait(child.Pid, 0)
	if err != nil {
		return nil, fmt.Errorf("wait for %s to start: %w", path, err)
	}
	if !status.Stopped() {
		return nil, &ExecError{path, fmt.Errorf("the kernel ended it before its first instruction: %v", status.Signal())}
	}
	err = ready(child.Pid)
	if err == nil {
		err = os.NewSyscallError("ptrace", unix.PtraceDetach(child.Pid))
	}
	if err != nil {
		return nil, errors.Join(err, child.Kill())
	}
	return child, nil
}

// Listen puts a process, stopped by Launch, under a seccomp filter with no_new_privs and gives the filter's listener, which
// gets the calls that the filter hands to user space (seccomp_unotify(2)), to serve, which owns it from then on. Until
// Listen has returned, the calls are its own, to clean up: serve has to let them go on meanwhile.
func Listen(pid int, filter []bpf.RawInstruction, serve func(listener int)) error {
	return inject(pid, func(call func(nr int, args ...uint64) (uint64, error)) error {
		if _, err := call(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("prctl: %w", err)
		}
		program := unsafe.Slice((*byte)(unsafe.Pointer(&filter[0])), len(filter)*int(unsafe.Sizeof(filter[0])))
		const header = 16 // struct sock_fprog
		size := uint64(header + len(program))
		at, err := call(unix.SYS_MMAP, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, wholeWord, 0)
		if err != nil {
			return fmt.Errorf("mmap: %w", err)
		}
		image := make([]byte, header, size)
		*(*uint16)(unsafe.Pointer(&image[0])) = uint16(len(filter))
		*(*uint64)(unsafe.Pointer(&image[8])) = at + header
		if err := writeMemory(pid, at, append(image, program...)); err != nil {
			return fmt.Errorf("process_vm_writev: %w", err)
		}
		fd, err := call(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, at)
		if err != nil {
			return fmt.Errorf("seccomp: %w", err)
		}
		listener, err := takeFile(pid, int(fd))
		if err != nil {
			return err
		}
		serve(listener)
		if _, err := call(unix.SYS_CLOSE, fd); err != nil {
			return fmt.Errorf("close: %w", err)
		}
		if _, err := call(unix.SYS_MUNMAP, at, size); err != nil {
			return fmt.Errorf("munmap: %w", err)
		}
		return nil
	})
}

// takeFile copies a file descriptor of another process.
func takeFile(pid, fd int) (int, error) {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(process)
	taken, err := unix.PidfdGetfd(process, fd, 0)
	return taken, os.NewSyscallError("pidfd_getfd", err)
}

// PassOn sends a process the signals that come, until ctx is done.
func PassOn(ctx context.Context, signals <-chan os.Signal, pid int) {
	for {
		select {
		case signal := <-signals:
			_ = unix.Kill(pid, signal.(syscall.Signal)) // it may have ended already
		case <-ctx.Done():
			return
		}
	}
}
