// Listener listens at every system call of the machine and does nothing, until its standard input ends: what any tracer
// costs a process that it does not trace. It prints a line when it listens.
package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// ways are the ways to listen.
var ways = map[string]func() (io.Closer, error){
	"tp_btf": func() (io.Closer, error) {
		program, err := empty(ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "sys_enter"})
		if err != nil {
			return nil, err
		}
		return link.AttachTracing(link.TracingOptions{Program: program})
	},
	"raw_tp": func() (io.Closer, error) {
		program, err := empty(ebpf.ProgramSpec{Type: ebpf.RawTracepoint})
		if err != nil {
			return nil, err
		}
		return link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sys_enter", Program: program})
	},
	"tracepoint": func() (io.Closer, error) {
		program, err := empty(ebpf.ProgramSpec{Type: ebpf.TracePoint})
		if err != nil {
			return nil, err
		}
		return link.Tracepoint("raw_syscalls", "sys_enter", program, nil)
	},
	// A perf event of this process alone, without a program: the kernel sends all others through the slow path too.
	"perf": openPerf,
}

func empty(spec ebpf.ProgramSpec) (*ebpf.Program, error) {
	spec.License = "GPL"
	spec.Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}
	return ebpf.NewProgram(&spec)
}

func openPerf() (io.Closer, error) {
	text, err := os.ReadFile("/sys/kernel/tracing/events/raw_syscalls/sys_enter/id")
	if err != nil {
		return nil, err
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return nil, err
	}
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Sample: 1 << 40}
	fd, err := unix.PerfEventOpen(&attr, os.Getpid(), -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("perf_event_open", err)
	}
	return os.NewFile(uintptr(fd), "perf event"), nil
}

func main() {
	way := ways[strings.Join(os.Args[1:], " ")]
	if way == nil {
		fmt.Fprintln(os.Stderr, "usage: listener tp_btf|raw_tp|tracepoint|perf")
		os.Exit(2)
	}
	listening, err := way()
	if err != nil {
		fmt.Fprintln(os.Stderr, "listener:", err)
		os.Exit(1)
	}
	defer listening.Close()
	fmt.Println("listening")
	_, _ = io.Copy(io.Discard, os.Stdin)
}
