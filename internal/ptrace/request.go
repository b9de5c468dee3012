package ptrace

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests that golang.org/x/sys wraps are made here without Go's scheduler in between: they never block.

// request makes a ptrace(2) request. addr and data are as the manual says.
func request(what int, tid int, addr, data uintptr) error {
	_, _, e := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(what), uintptr(tid), addr, data, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

func getRegisters(tid int, r *Registers) error {
	return request(unix.PTRACE_GETREGS, tid, 0, uintptr(unsafe.Pointer(r)))
}

// syscallInfo is struct ptrace_syscall_info (linux/ptrace.h) for a call that a filter traces.
type syscallInfo struct {
	op       uint8
	reserved uint8
	flags    uint16
	arch     uint32
	ip, sp   uint64
	nr       uint64
	args     [6]uint64
	data     uint32 // SECCOMP_RET_DATA
	_        uint32
}

// getSyscallInfo fails with EIO before Linux 5.3.
func getSyscallInfo(tid int, info *syscallInfo) error {
	err := request(unix.PTRACE_GET_SYSCALL_INFO, tid, unsafe.Sizeof(*info), uintptr(unsafe.Pointer(info)))
	if err == nil && info.op != unix.PTRACE_SYSCALL_INFO_SECCOMP {
		return unix.EIO
	}
	return err
}

func setRegisters(tid int, r *Registers) error {
	return request(unix.PTRACE_SETREGS, tid, 0, uintptr(unsafe.Pointer(r)))
}

func eventMessage(tid int) (message uint64, err error) {
	err = request(unix.PTRACE_GETEVENTMSG, tid, 0, uintptr(unsafe.Pointer(&message)))
	return message, err
}

// signalMask exchanges a stopped thread's blocked signals.
func setSignalMask(tid int, mask uint64) (old uint64, err error) {
	const size = unsafe.Sizeof(mask)
	if err := request(unix.PTRACE_GETSIGMASK, tid, size, uintptr(unsafe.Pointer(&old))); err != nil {
		return 0, fmt.Errorf("PTRACE_GETSIGMASK: %w", err)
	}
	if err := request(unix.PTRACE_SETSIGMASK, tid, size, uintptr(unsafe.Pointer(&mask))); err != nil {
		return 0, fmt.Errorf("PTRACE_SETSIGMASK: %w", err)
	}
	return old, nil
}

// wait returns the next change of a child or tracee of this thread; tid -1 is any of them. No other thread's children are
// touched.
func wait(tid, options int) (int, unix.WaitStatus, error) {
	var status unix.WaitStatus
	for {
		got, err := unix.Wait4(tid, &status, options|unix.WALL|unix.WNOTHREAD, nil)
		if err != unix.EINTR {
			return got, status, err
		}
	}
}

// sharesMemory tells whether two processes are in one address space: kcmp(2).
func sharesMemory(pid1, pid2 int) (bool, error) {
	const kcmpVM = 1
	order, _, e := unix.RawSyscall6(unix.SYS_KCMP, uintptr(pid1), uintptr(pid2), kcmpVM, 0, 0, 0)
	if e != 0 {
		return false, e
	}
	return order == 0, nil
}

// silenceStops keeps the kernel from sending SIGCHLD for stops. The tracer waits for them anyway, and the signal, for which
// Go has a handler, would wake another thread of this process each time. Those for the end of a child are still sent.
func silenceStops() error {
	var action struct { // struct sigaction of the kernel
		handler, flags, restorer, mask uintptr
	}
	at := uintptr(unsafe.Pointer(&action))
	_, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), 0, at, unsafe.Sizeof(action.mask), 0, 0)
	if e == 0 {
		action.flags |= noChildStops
		_, _, e = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), at, 0, unsafe.Sizeof(action.mask), 0, 0)
	}
	if e != 0 {
		return fmt.Errorf("set SA_NOCLDSTOP: %w", e)
	}
	return nil
}

const noChildStops = 1 // SA_NOCLDSTOP
