package ptrace

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// start starts a command, which the kernel stops behind its execve and before its first instruction, puts it under the
// filter, and seizes it.
func (t *Tracer) start(path string, argv []string) error {
	if err := checkKcmp(); err != nil {
		return err
	}
	if t.opts.Filter != nil {
		// What a process of another user could do would not be ours to filter. The child inherits it.
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("set no_new_privs: %w", err)
		}
	}
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		return &ExecError{path, err}
	}
	t.root = pid
	_, status, err := wait(pid, 0)
	if err != nil {
		return fmt.Errorf("wait for %s to start: %w", path, err)
	}
	if !status.Stopped() {
		return &ExecError{path, fmt.Errorf("the kernel ended it before its first instruction: %v", status.Signal())}
	}
	if err := t.prepare(pid); err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _, waitErr := wait(pid, 0)
		return errors.Join(err, waitErr)
	}
	return nil
}

// prepare makes a traced child that is stopped behind its execve a seized one that runs.
func (t *Tracer) prepare(pid int) error {
	if err := request(unix.PTRACE_SETOPTIONS, pid, 0, unix.PTRACE_O_EXITKILL|unix.PTRACE_O_TRACESECCOMP); err != nil {
		return fmt.Errorf("PTRACE_SETOPTIONS: %w", err)
	}
	if t.opts.Filter != nil {
		if err := install(pid, t.opts.Filter); err != nil {
			return err
		}
	}
	// Only a seized process can be in a group stop, and one cannot be born seized. Between the two it is stopped, and under
	// the filter, which without a tracer fails what it traces.
	if err := request(unix.PTRACE_DETACH, pid, 0, uintptr(unix.SIGSTOP)); err != nil {
		return fmt.Errorf("PTRACE_DETACH: %w", err)
	}
	if _, _, err := wait(pid, unix.WUNTRACED); err != nil {
		return fmt.Errorf("wait for process %d to stop: %w", pid, err)
	}
	if err := request(unix.PTRACE_SEIZE, pid, 0, t.seizeOptions()); err != nil {
		return fmt.Errorf("PTRACE_SEIZE: %w", err)
	}
	p := &Process{PID: pid, Space: newSpace(), threads: 1}
	t.threads[pid] = &Thread{TID: pid, Process: p, awaited: true}
	if !t.opts.Handler.Exec(p) {
		return errRefused
	}
	return unix.Kill(pid, unix.SIGCONT)
}

var errRefused = errors.New("the program may not run")

// install lets a stopped thread make the calls that put its process under a filter, as if from its own code.
func install(pid int, filter []bpf.RawInstruction) error {
	return inject(pid, func(call func(nr int, args ...uint64) (uint64, error)) error {
		if _, err := call(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("set no_new_privs: %w", err)
		}
		size := uint64(len(filter))*uint64(unsafe.Sizeof(filter[0])) + pageSize
		at, err := call(unix.SYS_MMAP, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, wholeWord, 0)
		if err != nil {
			return fmt.Errorf("mmap: %w", err)
		}
		// struct sock_fprog, and the program behind it
		image := make([]byte, 16, size)
		*(*uint16)(unsafe.Pointer(&image[0])) = uint16(len(filter))
		*(*uint64)(unsafe.Pointer(&image[8])) = at + 16
		program := unsafe.Slice((*byte)(unsafe.Pointer(&filter[0])), len(filter)*int(unsafe.Sizeof(filter[0])))
		if err := writeMemory(pid, at, append(image, program...)); err != nil {
			return fmt.Errorf("process_vm_writev: %w", err)
		}
		thread, err := call(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, at)
		if err != nil {
			return fmt.Errorf("seccomp: %w", err)
		}
		if thread != 0 {
			return fmt.Errorf("seccomp: thread %d is under a filter of its own", thread)
		}
		if _, err := call(unix.SYS_MUNMAP, at, size); err != nil {
			return fmt.Errorf("munmap: %w", err)
		}
		return nil
	})
}

// inject lets work make system calls in the place of a stopped thread, which afterwards is as it was.
func inject(tid int, work func(call func(nr int, args ...uint64) (uint64, error)) error) (err error) {
	var saved Registers
	if err := getRegisters(tid, &saved); err != nil {
		return fmt.Errorf("read the registers of thread %d: %w", tid, err)
	}
	mask, err := setSignalMask(tid, wholeWord)
	if err != nil {
		return err
	}
	var code uint64
	if _, err := unix.PtracePeekText(tid, uintptr(saved.Rip), (*[8]byte)(unsafe.Pointer(&code))[:]); err != nil {
		return fmt.Errorf("read the code of thread %d: %w", tid, err)
	}
	const syscallInstruction = 0x050f
	if err := request(unix.PTRACE_POKETEXT, tid, uintptr(saved.Rip), uintptr(code&^0xffff|syscallInstruction)); err != nil {
		return fmt.Errorf("write a system call instruction into thread %d: %w", tid, err)
	}
	defer func() {
		_, maskErr := setSignalMask(tid, mask)
		err = errors.Join(err, setRegisters(tid, &saved), maskErr,
			request(unix.PTRACE_POKETEXT, tid, uintptr(saved.Rip), uintptr(code)))
	}()
	return work(func(nr int, args ...uint64) (uint64, error) {
		regs := saved
		regs.Rax, regs.Orig_rax = uint64(nr), wholeWord
		for i, register := range []*uint64{&regs.Rdi, &regs.Rsi, &regs.Rdx, &regs.R10, &regs.R8, &regs.R9}[:len(args)] {
			*register = args[i]
		}
		if err := setRegisters(tid, &regs); err != nil {
			return 0, err
		}
		if err := step(tid); err != nil {
			return 0, err
		}
		if err := getRegisters(tid, &regs); err != nil {
			return 0, err
		}
		if result := int64(regs.Rax); result < 0 && result > -pageSize {
			return 0, unix.Errno(-result)
		}
		return regs.Rax, nil
	})
}

// step runs one instruction of a thread whose signals are blocked.
func step(tid int) error {
	for {
		if err := request(unix.PTRACE_SINGLESTEP, tid, 0, 0); err != nil {
			return fmt.Errorf("PTRACE_SINGLESTEP: %w", err)
		}
		_, status, err := wait(tid, 0)
		if err != nil {
			return fmt.Errorf("wait for a step of thread %d: %w", tid, err)
		}
		if !status.Stopped() {
			return fmt.Errorf("thread %d has ended", tid)
		}
		if status.StopSignal() == unix.SIGTRAP && status>>16 == 0 {
			return nil
		}
		// The filter, which is in force once it is installed, stops the call, or
		// SIGSTOP cannot be blocked. It is lost, and so is the stop that it would have been.
	}
}
