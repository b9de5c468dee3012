package ptrace

import (
	"fmt"

	"golang.org/x/sys/unix"

	"bulkhead/internal/seccomp"
	"bulkhead/internal/syscalls"
)

// Registers is struct user_regs_struct. At the entry of a system call Orig_rax is its number and Rip the address after its
// instruction.
type Registers = unix.PtraceRegs

// InDWARFOrder returns the general registers in the order of DWARF's numbers (System V ABI, amd64, figure 3.36).
func InDWARFOrder(r *Registers) [16]uint64 {
	return [16]uint64{r.Rax, r.Rdx, r.Rcx, r.Rbx, r.Rsi, r.Rdi, r.Rbp, r.Rsp,
		r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15}
}

// codeSegment64 is the cs of 64-bit code (__USER_CS).
const codeSegment64 = 0x33

// Registers returns the registers of a stopped thread as they were at its call. They are read when they are first asked
// for: Call and SP are enough for most decisions.
func (t *Thread) Registers() (*Registers, error) {
	if !t.read {
		if err := getRegisters(t.TID, &t.regs); err != nil {
			return nil, fmt.Errorf("read the registers of thread %d: %w", t.TID, err)
		}
		t.read = true
	}
	return &t.regs, nil
}

// callOf reads the call from registers, by the convention of its ABI.
func callOf(abi syscalls.ABI, r *Registers) seccomp.Call {
	c := seccomp.Call{ABI: abi, NR: uint32(r.Orig_rax), IP: r.Rip}
	if abi == syscalls.I386 {
		for i, arg := range [6]uint64{r.Rbx, r.Rcx, r.Rdx, r.Rsi, r.Rdi, r.Rbp} {
			c.Args[i] = uint64(uint32(arg))
		}
		return c
	}
	c.Args = [6]uint64{r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8, r.R9}
	return c
}

// call returns the call and the data that the filter gave for it.
func (i *syscallInfo) call() (c seccomp.Call, data uint64) {
	c = seccomp.Call{ABI: syscalls.AMD64, NR: uint32(i.nr), IP: i.ip, Args: i.args}
	switch {
	case i.arch == unix.AUDIT_ARCH_I386:
		c.ABI = syscalls.I386
	case c.NR >= syscalls.X32Bit:
		c.ABI = syscalls.X32
	}
	return c, uint64(i.data)
}

// A change is a system call, or some calls of one, that can change what code is at an address: an executable mapping is
// made, or moved.
type change struct {
	name  string
	tests []seccomp.Test // one must hold; none: always
}

const (
	shmExec   = 0100000 // SHM_EXEC
	mapVDSO   = 0x2000  // ARCH_MAP_VDSO_X32, _32, _64 are 1 to 3 above
	ipcShmat  = 21      // SHMAT of ipc(2)
	wholeWord = 1<<64 - 1
)

var (
	changes = []change{
		{"mmap", []seccomp.Test{seccomp.Argument(2, unix.PROT_EXEC, unix.PROT_EXEC)}},
		{"mprotect", []seccomp.Test{seccomp.Argument(2, unix.PROT_EXEC, unix.PROT_EXEC)}},
		{"pkey_mprotect", []seccomp.Test{seccomp.Argument(2, unix.PROT_EXEC, unix.PROT_EXEC)}},
		{"mremap", nil},
		{"remap_file_pages", nil},
		{"shmat", []seccomp.Test{seccomp.Argument(2, shmExec, shmExec)}},
		{"arch_prctl", []seccomp.Test{seccomp.Argument(0, wholeWord&^3, mapVDSO)}},
		{"uselib", nil},
	}
	// i386 has other ways to some of them: mmap takes a pointer to its arguments.
	changesI386 = []change{
		{"mmap", nil},
		{"mmap2", changes[0].tests},
		{"ipc", []seccomp.Test{seccomp.Argument(0, 0xffff, ipcShmat)}},
	}
)

// Changes returns the tests for those calls of a number that can change executable mappings, by ABI and number. A filter
// has to trace them, for a [Tracer] to know the mappings. A test that always holds has an empty mask.
func Changes(abi syscalls.ABI) map[int][]seccomp.Test {
	tests := map[int][]seccomp.Test{}
	lists := [][]change{changes}
	if abi == syscalls.I386 {
		lists = append(lists, changesI386)
	}
	for _, list := range lists {
		for _, c := range list {
			nr, ok := syscalls.Number(abi, c.name)
			if !ok {
				continue
			}
			tests[nr] = c.tests
			if c.tests == nil {
				tests[nr] = []seccomp.Test{seccomp.Argument(0, 0, 0)}
			}
		}
	}
	return tests
}

var changesOf = [...]map[int][]seccomp.Test{
	syscalls.AMD64: Changes(syscalls.AMD64), syscalls.I386: Changes(syscalls.I386), syscalls.X32: Changes(syscalls.X32),
}

// Executes tells whether a call is execve or execveat. While one is under way, a thread that stops may be the one that made
// it a moment later, under the number of the process's first thread and with another image; so all others wait.
func Executes(abi syscalls.ABI, nr int) bool {
	name, _ := syscalls.Name(abi, nr)
	return name == "execve" || name == "execveat"
}

// changesMappings tells whether a call can change executable mappings.
func changesMappings(c *seccomp.Call) bool {
	for _, t := range changesOf[c.ABI][int(c.NR)] {
		if t.Holds(c) {
			return true
		}
	}
	return false
}
