//go:build linux && amd64

package disasm

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The tracee's memory: code at its start, operands around its middle.
const (
	arena       = 0x20000000
	arenaSize   = 4 << 20
	operandArea = arena + arenaSize/2
	window      = 128 // bytes of memory compared around an operand
)

// A processor executes single instructions in a stopped process.
type processor struct {
	pid     int
	vectors []byte // XSAVE area before each instruction
}

// A state is what an instruction leaves behind.
type state struct {
	regs    [16]uint64
	flags   uint64
	vectors []byte
	memory  [window]byte
}

var errFault = errors.New("the instruction raised a signal")

// newProcessor starts a tracee on one processor with this thread, so that
// stops are cheap, and maps the arena into it.
func newProcessor(t *testing.T) *processor {
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	pin(t)
	cmd := exec.Command("/bin/sleep", "60")
	cmd.SysProcAttr = &unix.SysProcAttr{Ptrace: true, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Skipf("no tracing here: %v", err)
	}
	p := &processor{pid: cmd.Process.Pid}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Process.Wait()
	})
	if sig, err := p.wait(); err != nil || sig != unix.SIGTRAP {
		t.Fatalf("tracee stopped with %v, %v", sig, err)
	}
	p.mapArena(t)
	var err error
	if p.vectors, err = p.readVectors(); err != nil {
		t.Fatal(err)
	}
	return p
}

// pin binds this thread, and the tracee that it starts, to the processor it
// runs on.
func pin(t *testing.T) {
	var old, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &old); err != nil {
		t.Fatal(err)
	}
	for cpu := range 1024 {
		if old.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.SchedSetaffinity(0, &old) })
}

func (p *processor) wait() (unix.Signal, error) {
	var status unix.WaitStatus
	if _, err := unix.Wait4(p.pid, &status, unix.WALL, nil); err != nil {
		return 0, err
	}
	if !status.Stopped() {
		return 0, errors.New("the tracee has ended")
	}
	return status.StopSignal(), nil
}

// mapArena makes the tracee call mmap.
func (p *processor) mapArena(t *testing.T) {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(p.pid, &regs); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.PtracePokeText(p.pid, uintptr(regs.Rip), []byte{0x0f, 0x05}); err != nil {
		t.Fatal(err)
	}
	regs.Rax, regs.Orig_rax = unix.SYS_MMAP, ^uint64(0)
	regs.Rdi, regs.Rsi = arena, arenaSize
	regs.Rdx = unix.PROT_READ | unix.PROT_WRITE | unix.PROT_EXEC
	regs.R10 = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_FIXED
	regs.R8, regs.R9 = ^uint64(0), 0
	if err := unix.PtraceSetRegs(p.pid, &regs); err != nil {
		t.Fatal(err)
	}
	if err := unix.PtraceSingleStep(p.pid); err != nil {
		t.Fatal(err)
	}
	if sig, err := p.wait(); err != nil || sig != unix.SIGTRAP {
		t.Fatalf("tracee stopped with %v, %v", sig, err)
	}
	if err := unix.PtraceGetRegs(p.pid, &regs); err != nil || regs.Rax != arena {
		t.Fatalf("mmap in the tracee gives %#x, %v", regs.Rax, err)
	}
}

// ntX86XState is the register set of the XSAVE area (NT_X86_XSTATE).
const ntX86XState = 0x202

func (p *processor) readVectors() ([]byte, error) {
	b := make([]byte, 16<<10) // enough for AMX
	n, err := p.regset(unix.PTRACE_GETREGSET, b)
	return b[:n], err
}

// sameVectors compares two XSAVE areas but for their headers, which also tell
// what the processor has optimised away.
func sameVectors(a, b []byte) bool {
	const header, headerEnd = 512, 576 // SDM volume 1, 13.4.2
	return bytes.Equal(a[:header], b[:header]) && bytes.Equal(a[headerEnd:], b[headerEnd:])
}

func (p *processor) regset(request uintptr, b []byte) (int, error) {
	iov := unix.Iovec{Base: &b[0], Len: uint64(len(b))}
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, request, uintptr(p.pid), ntX86XState,
		uintptr(unsafe.Pointer(&iov)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(iov.Len), nil
}

// memory reads or writes the tracee's memory.
func (p *processor) memory(write bool, addr uint64, b []byte) error {
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}
	transfer := unix.ProcessVMReadv
	if write {
		transfer = unix.ProcessVMWritev
	}
	_, err := transfer(p.pid, local, remote, 0)
	return err
}

// run executes code once with the registers given. The operand's memory and
// the vector state are the same at every start.
func (p *processor) run(code []byte, regs [16]uint64, operand uint64) (s state, err error) {
	var fill [window]byte
	for i := range fill {
		fill[i] = byte(i*37 + 1)
	}
	_, err = p.regset(unix.PTRACE_SETREGSET, p.vectors)
	if err := errors.Join(err, p.memory(true, operand-window/2, fill[:]), p.memory(true, arena, code)); err != nil {
		return s, err
	}
	var r unix.PtraceRegs
	if err := unix.PtraceGetRegs(p.pid, &r); err != nil {
		return s, err
	}
	for i, reg := range registersOf(&r) {
		*reg = regs[i]
	}
	r.Rip, r.Eflags, r.Orig_rax, r.Fs_base, r.Gs_base = arena, 0x246, ^uint64(0), operandArea, operandArea
	if err := unix.PtraceSetRegs(p.pid, &r); err != nil {
		return s, err
	}
	if err := unix.PtraceSingleStep(p.pid); err != nil {
		return s, err
	}
	if sig, err := p.wait(); err != nil {
		return s, err
	} else if sig != unix.SIGTRAP {
		return s, errFault
	}
	if err := unix.PtraceGetRegs(p.pid, &r); err != nil {
		return s, err
	}
	for i, reg := range registersOf(&r) {
		s.regs[i] = *reg
	}
	s.flags = r.Eflags
	if s.vectors, err = p.readVectors(); err != nil {
		return s, err
	}
	return s, p.memory(false, operand-window/2, s.memory[:])
}

func registersOf(r *unix.PtraceRegs) [16]*uint64 {
	return [16]*uint64{&r.Rax, &r.Rcx, &r.Rdx, &r.Rbx, &r.Rsp, &r.Rbp, &r.Rsi, &r.Rdi,
		&r.R8, &r.R9, &r.R10, &r.R11, &r.R12, &r.R13, &r.R14, &r.R15}
}

// TestRegistersAgainstProcessor executes instructions. A register that
// changes must be in Writes. Registers that are not in Reads get other values
// in a second run, which must end the same: in registers, flags, vector
// registers and memory.
func TestRegistersAgainstProcessor(t *testing.T) {
	if testing.Short() {
		t.Skip("executes some 100,000 instructions")
	}
	p := newProcessor(t)
	random := rand.New(rand.NewPCG(1, 2))
	ran, faults := 0, 0
	for _, code := range samples(t) {
		s, err := Scan(code)
		if err != nil || s.Flow() != Next || !s.repeatable() {
			continue
		}
		for range 2 {
			err := p.check(t, &s, code[:s.Size()], random)
			switch {
			case err == nil:
				ran++
			case err == errFault || errors.Is(err, unix.EFAULT): // an operand outside the arena
				faults++
			default:
				t.Fatalf("% x: %v", code[:s.Size()], err)
			}
		}
	}
	t.Logf("%d runs, %d faults", ran, faults)
	if ran < 20000 {
		t.Errorf("only %d instructions ran, want at least 20000", ran)
	}
}

func (p *processor) check(t *testing.T, s *Shape, code []byte, random *rand.Rand) error {
	regs, operand := s.operands(random)
	a, err := p.run(code, regs, operand)
	if err != nil {
		return err
	}
	other, _ := s.operands(random)
	for r := range other {
		if s.Reads().Has(Register(r)) {
			other[r] = regs[r]
		}
	}
	b, err := p.run(code, other, operand)
	if err != nil {
		return err
	}
	for r := range regs {
		written := s.Writes().Has(Register(r))
		if !written && a.regs[r] != regs[r] {
			t.Errorf("% x: %v changes, writes %v", code, Register(r), s.Writes())
		}
		if written && a.regs[r] != b.regs[r] {
			t.Errorf("% x: %v depends on more than the reads %v", code, Register(r), s.Reads())
		}
	}
	if a.flags != b.flags || a.memory != b.memory || !sameVectors(a.vectors, b.vectors) {
		t.Errorf("% x: flags, memory or vectors depend on more than the reads %v", code, s.Reads())
	}
	return nil
}

// operands makes register values with which the memory operand lies in the
// arena, and all other registers point there too.
func (s *Shape) operands(random *rand.Rand) (regs [16]uint64, operand uint64) {
	for r := range regs {
		regs[r] = operandArea + random.Uint64N(arenaSize/16)&^63
	}
	m, ok := s.Memory()
	switch {
	case ok && m.Base == RIP:
		return regs, arena + uint64(s.size) + uint64(m.Disp)
	case ok && m.Base == NoRegister:
		return regs, operandArea + uint64(m.Disp) // only fs and gs are ready for this
	case !ok || m.Base == m.Index:
		return regs, regs[RDI]
	}
	operand = operandArea
	regs[m.Base] = operand - uint64(m.Disp)
	if m.Index != NoRegister {
		regs[m.Index] = random.Uint64N(8) * 8
		regs[m.Base] -= regs[m.Index] * uint64(m.Scale)
	}
	if m.Segment != Flat {
		regs[m.Base] -= operandArea
	}
	return regs, operand
}

// repeatable reports whether two runs of the instruction can be compared: it
// neither reads a clock or random numbers, nor changes what later steps need.
func (s *Shape) repeatable() bool {
	switch {
	case s.opmap == legacy && (s.opcode == 0x17 || s.opcode == 0x8e || s.opcode == 0x9d): // mov ss, popf
		return false
	case s.opmap == legacy0F && bytes.IndexByte([]byte{0xa3, 0xab, 0xb3, 0xbb}, s.opcode) >= 0:
		return s.modrm>>6 == 3 // bit strings reach out of the window
	case s.opmap == legacy0F && bytes.IndexByte([]byte{0x00, 0x01, 0x31, 0xa1, 0xa9, 0xb2, 0xb4, 0xb5}, s.opcode) >= 0:
		return false // system instructions, rdtsc, segment loads
	case s.opmap == legacy0F && s.opcode == 0xc7:
		return s.modrm>>3&7 == 1 // not rdrand and its like
	case s.opmap == legacy0F && s.opcode == 0xae:
		return s.modrm>>6 == 3 && s.modrm>>3&7 < 4 || s.modrm>>3&7 == 7 // state loads, waits
	}
	return true
}

// samples returns the generated forms and the different encodings of libc.
func samples(t *testing.T) (list [][]byte) {
	seen := map[Shape]bool{}
	add := func(code []byte) {
		s, err := Scan(code)
		if err != nil {
			return
		}
		key := s
		key.imm, key.disp, key.size = 0, 0, 0
		if !seen[key] {
			seen[key] = true
			list = append(list, code)
		}
	}
	for _, f := range forms() {
		add(append(f.code, make([]byte, 8)...))
	}
	code := text(t, corpus[0])
	for pos := 0; pos < len(code); {
		s, err := Scan(code[pos:])
		if err != nil {
			pos++
			continue
		}
		add(code[pos : pos+s.Size()])
		pos += s.Size()
	}
	return list
}
