package syscalls

import (
	"fmt"
	"iter"
	"sync"
)

// An ABI is a calling convention with its own system call numbers.
type ABI uint8

// The ABIs. One amd64 process can use the first three: AMD64 and X32 with the
// syscall instruction, told apart by X32Bit, and I386 with int 0x80.
const (
	AMD64 ABI = iota
	I386
	X32
	ARM64
)

// X32Bit is set in every system call number of X32.
const X32Bit = 0x40000000

var abiNames = [...]string{AMD64: "amd64", I386: "i386", X32: "x32", ARM64: "arm64"}

func (a ABI) String() string {
	if int(a) < len(abiNames) {
		return abiNames[a]
	}
	return fmt.Sprintf("ABI(%d)", uint8(a))
}

// ParseABI returns the ABI with the name given: one of String's, GOARCH's or
// uname -m's.
func ParseABI(name string) (ABI, error) {
	switch name {
	case "amd64", "x86_64":
		return AMD64, nil
	case "i386", "386", "i686", "x86":
		return I386, nil
	case "x32":
		return X32, nil
	case "arm64", "aarch64":
		return ARM64, nil
	}
	return 0, fmt.Errorf("unknown system call ABI %q: want amd64, i386, x32 or arm64", name)
}

// Name returns the name of system call nr, as the kernel's tables spell it.
// Numbers of X32 have X32Bit.
func Name(abi ABI, nr int) (name string, ok bool) {
	if abi == X32 {
		if nr&X32Bit == 0 {
			return "", false
		}
		nr &^= X32Bit
	}
	if int(abi) >= len(tables) || nr < 0 || nr >= len(tables[abi]) {
		return "", false
	}
	name = tables[abi][nr]
	return name, name != ""
}

// Number returns the number of the system call with the name given.
func Number(abi ABI, name string) (nr int, ok bool) {
	if int(abi) >= len(tables) {
		return 0, false
	}
	nr, ok = numbers()[abi][name]
	return nr, ok
}

// numbers has the tables by name.
var numbers = sync.OnceValue(func() (byName [len(tables)]map[string]int) {
	for abi := range byName {
		byName[abi] = make(map[string]int, len(tables[abi]))
		for nr, name := range All(ABI(abi)) {
			byName[abi][name] = nr
		}
	}
	return byName
})

// All yields the numbers and names of an ABI's system calls, by number.
func All(abi ABI) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		if int(abi) >= len(tables) {
			return
		}
		bit := 0
		if abi == X32 {
			bit = X32Bit
		}
		for nr, name := range tables[abi] {
			if name != "" && !yield(nr|bit, name) {
				return
			}
		}
	}
}

// Count returns how many system calls an ABI has.
func Count(abi ABI) int {
	n := 0
	for range All(abi) {
		n++
	}
	return n
}
