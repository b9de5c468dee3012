package trace

import (
	"fmt"
	"sync"

	"bulkhead/internal/attribution"
	"bulkhead/internal/bpf"
	"bulkhead/internal/dso"
	"bulkhead/internal/syscalls"
)

// observations is what was seen so far, by the kernel's numbers. Safe for concurrent use.
type observations struct {
	mu       sync.Mutex
	programs []bpf.ObjectID // in the order of their first calls
	counts   map[bpf.CountKey]uint64
	examples map[bpf.CountKey][]bpf.Frame
	chains   map[chainKey][]bpf.Frame
	breaks   map[bpf.ObjectID]uint64
	images   map[dso.FileID]map[bpf.ObjectID]bool // what the processes of a program had executable
}

// chainKey is a sequence of regions on a stack and the call made with it.
type chainKey struct {
	program, nr, abi uint32
	regions          string
}

func newObservations() *observations {
	return &observations{
		counts:   map[bpf.CountKey]uint64{},
		examples: map[bpf.CountKey][]bpf.Frame{},
		chains:   map[chainKey][]bpf.Frame{},
		breaks:   map[bpf.ObjectID]uint64{},
		images:   map[dso.FileID]map[bpf.ObjectID]bool{},
	}
}

func (o *observations) program(id bpf.ObjectID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.addProgram(id)
}

func (o *observations) addProgram(id bpf.ObjectID) {
	for _, known := range o.programs {
		if known == id {
			return
		}
	}
	o.programs = append(o.programs, id)
}

// mapped notes that a process of a program mapped an object executable.
func (o *observations) mapped(image dso.FileID, id bpf.ObjectID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.images[image] == nil {
		o.images[image] = map[bpf.ObjectID]bool{}
	}
	o.images[image][id] = true
}

func (o *observations) count(key bpf.CountKey) { o.add(key, 1) }

func (o *observations) add(key bpf.CountKey, calls uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.addProgram(bpf.ObjectID(key.Program))
	o.counts[key] += calls
}

func (o *observations) broken(program uint32) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.breaks[bpf.ObjectID(program)]++
}

// stack keeps the first stack of a key, and of a chain when it is whole.
func (o *observations) stack(key bpf.CountKey, frames []bpf.Frame, sequence string, whole bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	chain := chainKey{key.Program, key.Nr, key.Abi, sequence}
	_, exampled := o.examples[key]
	_, chained := o.chains[chain]
	chained = chained || !whole
	if exampled && chained {
		return
	}
	kept := append([]bpf.Frame(nil), frames...)
	if !exampled {
		o.examples[key] = kept
	}
	if !chained {
		o.chains[chain] = kept
	}
}

var abis = [...]struct {
	table syscalls.ABI
	name  attribution.ABI
}{
	bpf.ABIAMD64: {syscalls.AMD64, attribution.AMD64},
	bpf.ABII386:  {syscalls.I386, attribution.I386},
	bpf.ABIX32:   {syscalls.X32, attribution.X32},
}

func callOf(nr, abi uint32) attribution.Call {
	number := int(int32(nr))
	name, ok := syscalls.Name(abis[abi].table, number)
	if !ok {
		name = fmt.Sprintf("syscall_%d", number)
	}
	return attribution.Call{ABI: abis[abi].name, NR: number, Name: name}
}
