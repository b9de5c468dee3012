package kernel

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// returns is the program that does nothing but return value.
func returns(value int32) asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, value), asm.Return()}
}

// calls is a program that runs body and returns 0.
func calls(body ...asm.Instruction) asm.Instructions {
	return append(asm.Instructions(body), returns(0)...)
}

// callback loads the address of the function that withCallback appends.
func callback(dst asm.Register) asm.Instruction {
	return asm.Instruction{OpCode: asm.LoadImmOp(asm.DWord), Dst: dst, Src: asm.PseudoFunc, Constant: -1}.
		WithReference("callback")
}

// withCallback appends a function that returns 0. The verifier wants types for
// programs with callbacks; it checks no more of them than that they are static.
func withCallback(main asm.Instructions) asm.Instructions {
	long := &btf.Int{Name: "long", Size: 8, Encoding: btf.Signed}
	proto := &btf.FuncProto{Return: long, Params: []btf.FuncParam{{Name: "ctx", Type: &btf.Pointer{Target: &btf.Void{}}}}}
	main[0] = btf.WithFuncMetadata(main[0].WithSymbol("main"), &btf.Func{Name: "main", Type: proto, Linkage: btf.GlobalFunc})
	body := returns(0)
	body[0] = btf.WithFuncMetadata(body[0].WithSymbol("callback"), &btf.Func{Name: "callback", Type: proto, Linkage: btf.StaticFunc})
	return append(main, body...)
}

// load loads a program of the given kind.
func load(kind ebpf.ProgramType, attach ebpf.AttachType, target string, code asm.Instructions) (*ebpf.Program, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "bulkhead_probe",
		Type:         kind,
		AttachType:   attach,
		AttachTo:     target,
		Instructions: code,
		License:      "GPL",
	})
	if err != nil {
		return nil, fmt.Errorf("load: %w", reason(err))
	}
	return program, nil
}

// loadSyscallEntry loads a program for tp_btf/sys_enter.
func loadSyscallEntry(code asm.Instructions) (*ebpf.Program, error) {
	return load(ebpf.Tracing, ebpf.AttachTraceRawTp, "sys_enter", code)
}

// loads tells whether the kernel takes the program; nothing is attached.
func loads(program *ebpf.Program, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return "loads", program.Close()
}

// reason reduces the library's error to the verifier's last words and the error
// number: its guess that EPERM means too little MEMLOCK does not hold since 5.11.
func reason(err error) error {
	var number unix.Errno
	if !errors.As(err, &number) {
		return err
	}
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) {
		for _, line := range slices.Backward(refused.Log) {
			if line != "" && !strings.HasPrefix(line, "processed ") {
				return fmt.Errorf("%w: %s", number, line)
			}
		}
	}
	return number
}

// bpf loads the simplest tracing program: what fails here is permission.
func (p *prober) bpf() (string, error) {
	unprivileged := "kernel.unprivileged_bpf_disabled is " + sysctl("kernel/unprivileged_bpf_disabled")
	program, err := load(ebpf.RawTracepoint, ebpf.AttachNone, "", returns(0))
	if err == nil {
		return "permitted; " + unprivileged, program.Close()
	}
	if errors.Is(err, unix.ENOSYS) {
		return "", remedy(err, "boot a kernel built with CONFIG_BPF_SYSCALL=y")
	}
	capabilities := p.result(Capabilities)
	mode, _ := p.status("Seccomp")
	switch {
	case !capabilities.Available:
		// No value of unprivileged_bpf_disabled permits tracing programs.
		return "", remedy(fmt.Errorf("%w (%s)", err, unprivileged), capabilities.Remedy)
	case mode == "2":
		return "", remedy(err, "allow bpf(2) in the seccomp filter that this process runs under, with docker or podman: --security-opt seccomp=unconfined")
	}
	return "", err
}

// bpfJIT matters because programs with callbacks are refused without it.
func (p *prober) bpfJIT() (string, error) {
	program, err := load(ebpf.RawTracepoint, ebpf.AttachNone, "", returns(0))
	if err != nil {
		return "", err
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil {
		return "", &unknown{err}
	}
	size, err := info.JitedSize()
	if err != nil {
		return "", &unknown{err}
	}
	if size == 0 {
		return "", remedy(errors.New("programs are interpreted"), "sysctl -w net.core.bpf_jit_enable=1")
	}
	return "programs are compiled", nil
}

func (p *prober) rawTracepoint() (string, error) {
	return loads(load(ebpf.RawTracepoint, ebpf.AttachNone, "", returns(0)))
}

func (p *prober) testRun() (string, error) {
	const want = 42
	program, err := load(ebpf.RawTracepoint, ebpf.AttachNone, "", returns(want))
	if err != nil {
		return "", err
	}
	defer program.Close()
	got, err := program.Run(&ebpf.RunOptions{})
	if err != nil {
		return "", fmt.Errorf("run: %w", reason(err))
	}
	if got != want {
		return "", fmt.Errorf("run: the program returned %d instead of %d", got, want)
	}
	return "runs", nil
}

// traceSyscalls counts system calls for a moment, to see that events arrive.
func (p *prober) traceSyscalls() (string, error) {
	counter, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return "", fmt.Errorf("create an array: %w", reason(err))
	}
	defer counter.Close()
	program, err := loadSyscallEntry(calls(
		asm.LoadMapValue(asm.R1, counter.FD(), 0),
		asm.Mov.Imm(asm.R2, 1),
		asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),
	))
	if err != nil {
		return "", err
	}
	defer program.Close()
	attached, err := link.AttachTracing(link.TracingOptions{Program: program})
	if err != nil {
		return "", fmt.Errorf("attach: %w", reason(err))
	}
	defer attached.Close()
	unix.Getppid()
	var seen uint64
	if err := counter.Lookup(uint32(0), &seen); err != nil {
		return "", fmt.Errorf("read an array: %w", reason(err))
	}
	if seen == 0 {
		return "", errors.New("attached to sys_enter, but saw no system call")
	}
	return "sees system calls at their entry", nil
}

// readKernel is what lockdown's mode "confidentiality" takes away.
func (p *prober) readKernel() (string, error) {
	detail, err := loads(loadSyscallEntry(calls(
		asm.Mov.Reg(asm.R1, asm.RFP),
		asm.Add.Imm(asm.R1, -8),
		asm.Mov.Imm(asm.R2, 8),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnProbeReadKernel.Call(),
	)))
	if lockdown := p.result(Lockdown); err != nil && lockdown.Remedy != "" {
		return "", remedy(err, lockdown.Remedy)
	}
	return detail, err
}

// taskIterator runs a program once for each thread of the machine.
func (p *prober) taskIterator() (string, error) {
	program, err := load(ebpf.Tracing, ebpf.AttachTraceIter, "task", returns(0))
	if err != nil {
		return "", err
	}
	defer program.Close()
	iterator, err := link.AttachIter(link.IterOptions{Program: program})
	if err != nil {
		return "", fmt.Errorf("attach: %w", reason(err))
	}
	defer iterator.Close()
	tasks, err := iterator.Open()
	if err != nil {
		return "", fmt.Errorf("open: %w", reason(err))
	}
	defer tasks.Close()
	if _, err := io.Copy(io.Discard, tasks); err != nil {
		return "", fmt.Errorf("run: %w", reason(err))
	}
	return "runs", nil
}

func (p *prober) findVMA() (string, error) {
	return loads(loadSyscallEntry(withCallback(calls(
		asm.FnGetCurrentTaskBtf.Call(),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.Mov.Imm(asm.R2, 0),
		callback(asm.R3),
		asm.Mov.Imm(asm.R4, 0),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnFindVma.Call(),
	))))
}

func (p *prober) loop() (string, error) {
	return loads(loadSyscallEntry(withCallback(calls(
		asm.Mov.Imm(asm.R1, 1),
		callback(asm.R2),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnLoop.Call(),
	))))
}

func (p *prober) taskStorage() (string, error) {
	storage, err := ebpf.NewMap(&ebpf.MapSpec{
		Type: ebpf.TaskStorage, KeySize: 4, ValueSize: 8, Flags: unix.BPF_F_NO_PREALLOC,
		Key:   &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed},
		Value: &btf.Int{Name: "long", Size: 8, Encoding: btf.Signed},
	})
	if err != nil {
		return "", fmt.Errorf("create the map: %w", reason(err))
	}
	defer storage.Close()
	const create = 1 // BPF_LOCAL_STORAGE_GET_F_CREATE
	return loads(loadSyscallEntry(calls(
		asm.FnGetCurrentTaskBtf.Call(),
		asm.LoadMapPtr(asm.R1, storage.FD()),
		asm.Mov.Reg(asm.R2, asm.R0),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, create),
		asm.FnTaskStorageGet.Call(),
	)))
}

func (p *prober) ringBuffer() (string, error) {
	ring, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: uint32(unix.Getpagesize())})
	if err != nil {
		return "", fmt.Errorf("create the map: %w", reason(err))
	}
	defer ring.Close()
	return loads(load(ebpf.RawTracepoint, ebpf.AttachNone, "", calls(
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
		asm.LoadMapPtr(asm.R1, ring.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -8),
		asm.Mov.Imm(asm.R3, 8),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnRingbufOutput.Call(),
	)))
}

// sendSignal is how the kernel backend kills. The program is not attached.
func (p *prober) sendSignal() (string, error) {
	return loads(loadSyscallEntry(calls(
		asm.Mov.Imm(asm.R1, int32(unix.SIGKILL)),
		asm.FnSendSignal.Call(),
	)))
}

// lsmProgram attaches an LSM program that allows, and sees whether the kernel
// calls it: it takes programs even where bpf is not among its security modules,
// and then never runs them.
func (p *prober) lsmProgram() (string, error) {
	program, err := load(ebpf.LSM, ebpf.AttachLSMMac, "syslog", returns(0))
	if err != nil {
		return "", p.lsmRemedy(err)
	}
	defer program.Close()
	stats, statsErr := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if statsErr == nil {
		defer stats.Close()
	}
	attached, err := link.AttachLSM(link.LSMOptions{Program: program})
	if err != nil {
		return "", p.lsmRemedy(fmt.Errorf("attach: %w", reason(err)))
	}
	defer attached.Close()
	if statsErr != nil {
		return p.lsmListed()
	}
	const sizeBuffer = 10 // SYSLOG_ACTION_SIZE_BUFFER: asks for a number, and the hook for permission
	unix.Klogctl(sizeBuffer, nil)
	ran, err := program.Stats()
	if err != nil {
		return p.lsmListed()
	}
	if ran.RunCount == 0 {
		return "", p.lsmRemedy(errors.New("attaches, but the kernel does not call it"))
	}
	return "loads, attaches and is called", nil
}

// lsmListed decides by the list of modules where the program's runs cannot be counted.
func (p *prober) lsmListed() (string, error) {
	list := p.result(LSMList)
	switch {
	case list.Available:
		return "loads and attaches; bpf is among the security modules", nil
	case list.Probed:
		return "", p.lsmRemedy(errors.New("attaches, but the kernel does not call it: bpf is not among the security modules"))
	}
	return "", &unknown{errors.New("attaches, but this user cannot see whether the kernel calls it")}
}

// lsmRemedy finds out which of the things that an LSM program needs is missing.
func (p *prober) lsmRemedy(err error) error {
	list := p.result(LSMList)
	if list.Available {
		return fmt.Errorf("%w, although bpf is among the security modules", err)
	}
	if spec, specErr := btf.LoadKernelSpec(); specErr == nil {
		var hook *btf.Func
		if errors.Is(spec.TypeByName("bpf_lsm_syslog", &hook), btf.ErrNotFound) {
			return remedy(err, "boot a kernel built with CONFIG_BPF_LSM=y (Debian 12 has it)")
		}
	}
	if list.Probed {
		return remedy(err, list.Remedy)
	}
	return err
}

// fentry attaches to a function that only the kernel's own tests call.
func (p *prober) fentry() (string, error) {
	program, err := load(ebpf.Tracing, ebpf.AttachTraceFEntry, "bpf_fentry_test1", returns(0))
	if err != nil {
		return "", err
	}
	defer program.Close()
	attached, err := link.AttachTracing(link.TracingOptions{Program: program})
	if err != nil {
		return "", fmt.Errorf("attach: %w", reason(err))
	}
	return "loads and attaches", attached.Close()
}

// fmodRet can deny: it is loaded only. What attaching takes, fentry has tried.
func (p *prober) fmodRet() (string, error) {
	if fentry := p.result(Fentry); !fentry.Available && fentry.Probed {
		return "", fmt.Errorf("as for fentry: %s", fentry.Detail)
	}
	return loads(load(ebpf.Tracing, ebpf.AttachModifyReturn, "security_syslog", returns(0)))
}

// cgroupSock can deny: socket creation and connect(2) programs are loaded only.
func (p *prober) cgroupSock() (string, error) {
	const allow = 1
	for _, hook := range []struct {
		kind   ebpf.ProgramType
		attach ebpf.AttachType
	}{
		{ebpf.CGroupSock, ebpf.AttachCGroupInetSockCreate},
		{ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect},
	} {
		program, err := load(hook.kind, hook.attach, "", returns(allow))
		if errors.Is(err, unix.EPERM) {
			if effective, _ := p.capabilitySet("CapEff"); !effective.can(unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN) {
				return "", remedy(err, "run as root or with cap_net_admin")
			}
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", hook.attach, err)
		}
		program.Close()
	}
	return "loads", nil
}

// perfMmap opens a system-wide event that reports mappings and counts nothing.
func (p *prober) perfMmap() (string, error) {
	paranoid := "kernel.perf_event_paranoid is " + sysctl("kernel/perf_event_paranoid")
	attributes := unix.PerfEventAttr{
		Type:   unix.PERF_TYPE_SOFTWARE,
		Config: unix.PERF_COUNT_SW_DUMMY,
		Bits:   unix.PerfBitDisabled | unix.PerfBitMmap | unix.PerfBitMmap2,
	}
	attributes.Size = unix.PERF_ATTR_SIZE_VER5
	const everyProcess, firstCPU = -1, 0
	fd, err := unix.PerfEventOpen(&attributes, everyProcess, firstCPU, -1, unix.PERF_FLAG_FD_CLOEXEC)
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		bounding, _ := p.capabilitySet("CapBnd")
		return "", remedy(fmt.Errorf("perf_event_open: %w (%s)", err, paranoid), p.privilegeRemedy(bounding))
	case errors.Is(err, unix.ENOSYS):
		return "", remedy(fmt.Errorf("perf_event_open: %w", err), "boot a kernel built with CONFIG_PERF_EVENTS=y")
	case err != nil:
		return "", fmt.Errorf("perf_event_open: %w", err)
	}
	unix.Close(fd)
	return "permitted; " + paranoid, nil
}
