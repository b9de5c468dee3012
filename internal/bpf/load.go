package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"bulkhead/internal/filecache"
)

// loadCollection loads a BPF object: maps and programs at the same time, each on its own, for most of the time is spent in
// the kernel. ready gets the maps as soon as they are there. The caller closes the collection.
func loadCollection(spec *ebpf.CollectionSpec, object []byte, cache *filecache.Cache, ready func(map[string]*ebpf.Map)) (
	*ebpf.Collection, error) {
	programs := sync.OnceValues(func() (*relocated, error) { return openRelocated(spec, object, cache) })
	go programs() // while the maps are made
	coll, err := loadMaps(spec)
	if err != nil {
		return nil, err
	}
	ready(coll.Maps)
	code, err := programs()
	if err == nil {
		coll.Programs, err = code.load(coll.Maps)
	}
	if err != nil && code != nil && code.kept { // whatever may be wrong with it
		if code, err = newRelocated(spec); err == nil {
			coll.Programs, err = code.load(coll.Maps)
		}
	}
	if err != nil {
		coll.Close()
		return nil, err
	}
	return coll, nil
}

// loadMaps makes the maps and variables of an object.
func loadMaps(spec *ebpf.CollectionSpec) (*ebpf.Collection, error) {
	var mu sync.Mutex
	made := map[string]*ebpf.Map{}
	defer func() {
		for _, m := range made {
			m.Close() // the collection has its own
		}
	}()
	var all errgroup.Group
	for name, m := range spec.Maps {
		if strings.HasPrefix(name, ".") { // variables: made with their content
			continue
		}
		all.Go(func() error {
			one, err := ebpf.NewMap(m)
			if err != nil {
				return fmt.Errorf("make map %s: %w", name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			made[name] = one
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return nil, err
	}
	data := *spec
	data.Programs = nil
	return ebpf.NewCollectionWithOptions(&data, ebpf.CollectionOptions{MapReplacements: made})
}

// load gives the programs to the kernel.
func (r *relocated) load(maps map[string]*ebpf.Map) (map[string]*ebpf.Program, error) {
	types, err := btf.NewHandleFromRawBTF(r.Types)
	if err != nil {
		return nil, err
	}
	defer types.Close()
	var mu sync.Mutex
	loaded := map[string]*ebpf.Program{}
	var all errgroup.Group
	for name, p := range r.Programs {
		all.Go(func() error {
			one, err := p.load(name, types.FD(), maps)
			if err != nil {
				return fmt.Errorf("program %s: %w", name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			loaded[name] = one
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		for _, p := range loaded {
			p.Close()
		}
		return nil, err
	}
	return loaded, nil
}

const (
	instructionBytes = 8
	functionBytes    = 8 // struct bpf_func_info
	verifierLogBytes = 4 << 20
	// loadAttempts bounds how often a load is begun again that a signal interrupted, as those of Go's scheduler do.
	loadAttempts = 30
)

// progLoadAttr is the part of union bpf_attr for BPF_PROG_LOAD, see bpf(2) and linux/bpf.h.
type progLoadAttr struct {
	progType           uint32
	instructionCount   uint32
	instructions       *byte
	license            *byte
	logLevel           uint32
	logSize            uint32
	log                *byte
	kernelVersion      uint32
	flags              uint32
	name               [16]byte
	interfaceIndex     uint32
	expectedAttachType uint32
	types              uint32
	functionSize       uint32
	functions          *byte
	functionCount      uint32
	lineSize           uint32
	lines              *byte
	lineCount          uint32
	attachTo           uint32
	attachObject       uint32
	_                  uint32
}

func (p *program) load(name string, types int, maps map[string]*ebpf.Map) (*ebpf.Program, error) {
	code := append([]byte(nil), p.Instructions...)
	for _, reference := range p.Maps {
		m := maps[reference.Map]
		if m == nil {
			return nil, fmt.Errorf("there is no map %q", reference.Map)
		}
		binary.NativeEndian.PutUint32(code[reference.Instruction*instructionBytes+4:], uint32(m.FD()))
	}
	license, err := unix.BytePtrFromString(p.License)
	if err != nil {
		return nil, err
	}
	attr := progLoadAttr{
		progType: uint32(p.Type), expectedAttachType: uint32(p.AttachType), flags: p.Flags, license: license,
		instructions: unsafe.SliceData(code), instructionCount: uint32(len(code) / instructionBytes),
		types:     uint32(types),
		functions: unsafe.SliceData(p.Functions), functionCount: uint32(len(p.Functions) / functionBytes), functionSize: functionBytes,
		attachTo: uint32(p.AttachTo),
	}
	copy(attr.name[:len(attr.name)-1], name)
	fd, err := attr.load()
	if err != nil {
		return nil, attr.explain(err)
	}
	return ebpf.NewProgramFromFD(fd)
}

func (attr *progLoadAttr) load() (int, error) {
	for attempt := 1; ; attempt++ {
		fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
		switch {
		case errno == 0:
			return int(fd), nil
		case errno != unix.EAGAIN || attempt == loadAttempts:
			return 0, os.NewSyscallError("bpf(BPF_PROG_LOAD)", errno)
		}
	}
}

// explain loads a program that was refused once more, for the verifier's reasons.
func (attr *progLoadAttr) explain(refused error) error {
	log := make([]byte, verifierLogBytes)
	attr.logLevel, attr.logSize, attr.log = 1, uint32(len(log)), &log[0]
	fd, err := attr.load()
	if err == nil {
		return errors.Join(refused, unix.Close(fd))
	}
	lines := strings.Split(strings.TrimSpace(unix.ByteSliceToString(log)), "\n")
	return &ebpf.VerifierError{Cause: refused, Log: lines}
}
