package bpf

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"bulkhead/internal/filecache"
)

// relocated is the programs of one BPF object as one kernel takes them: relocated against its types, and with the numbers of
// what they attach to. Making it takes a large part of a second on a slow machine, because the kernel's types are a graph of
// a hundred thousand; so it is kept from run to run.
type relocated struct {
	Types    []byte // of all programs, as BTF
	Programs map[string]*program

	kept bool // it comes from the cache
}

// program is what bpf(BPF_PROG_LOAD) is given, except for maps.
type program struct {
	Type         ebpf.ProgramType
	AttachType   ebpf.AttachType
	AttachTo     btf.TypeID // among the kernel's types; 0: nothing
	License      string
	Flags        uint32
	Instructions []byte
	Functions    []byte // which type each function has: struct bpf_func_info
	Maps         []mapReference
}

// mapReference is an instruction that loads a map, or an address in one.
type mapReference struct {
	Instruction int // counted in units of 8 bytes
	Map         string
}

// relocatedVersion changes whenever the result for the same object and the same kernel does.
const relocatedVersion = 1

// openRelocated returns the programs of an object for the running kernel, from the cache if it is there. A nil cache has none.
func openRelocated(spec *ebpf.CollectionSpec, object []byte, cache *filecache.Cache) (*relocated, error) {
	if cache == nil {
		return newRelocated(spec)
	}
	key, err := relocatedKey(spec, object)
	if err != nil {
		return nil, err
	}
	var kept relocated
	if data := cache.Get(key); data != nil && json.Unmarshal(data, &kept) == nil {
		kept.kept = true
		return &kept, nil
	}
	r, err := newRelocated(spec)
	if err != nil {
		return nil, err
	}
	if data, err := json.Marshal(r); err == nil {
		_ = cache.Put(key, data) // it only saves time
	}
	return r, nil
}

// relocatedKey names what it makes of an object by its content and the kernel's types. A checksum does: the cache is the user's own,
// and the verifier has the last word.
func relocatedKey(spec *ebpf.CollectionSpec, object []byte) (string, error) {
	types, err := os.Open("/sys/kernel/btf/vmlinux")
	if err != nil {
		return "", fmt.Errorf("the kernel's types: %w", err)
	}
	defer types.Close()
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	size, err := io.CopyBuffer(sum, struct{ io.Reader }{types}, make([]byte, 64<<10))
	if err != nil {
		return "", fmt.Errorf("read the kernel's types: %w", err)
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", os.NewSyscallError("uname", err)
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) { // not always all of the object's
		sum.Write([]byte(name))
	}
	return fmt.Sprintf("%d-%08x-%s-%d-%08x", relocatedVersion, crc32.Checksum(object, crc32.MakeTable(crc32.Castagnoli)),
		unix.ByteSliceToString(name.Release[:]), size, sum.Sum32()), nil
}

// newRelocated relocates the programs of an object for the running kernel.
func newRelocated(spec *ebpf.CollectionSpec) (*relocated, error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, err
	}
	r := &relocated{Programs: map[string]*program{}}
	var types btf.Builder
	for name, p := range spec.Programs {
		if r.Programs[name], err = newProgram(p, kernel, &types); err != nil {
			return nil, fmt.Errorf("program %s: %w", name, err)
		}
	}
	r.Types, err = types.Marshal(nil, btf.KernelMarshalOptions())
	return r, err
}

func newProgram(spec *ebpf.ProgramSpec, kernel *btf.Spec, types *btf.Builder) (*program, error) {
	p := &program{Type: spec.Type, AttachType: spec.AttachType, License: spec.License, Flags: spec.Flags}
	spec = spec.Copy()
	if err := relocate(spec.Instructions, kernel, types); err != nil {
		return nil, err
	}
	code := spec.Instructions.Iterate()
	for code.Next() {
		*code.Ins = code.Ins.WithSource(nil) // lines of source: only the verifier's log would show them
		switch {
		case code.Ins.IsKfuncCall():
			return nil, errors.New("calls of kernel functions are not relocated")
		case code.Ins.IsLoadFromMap():
			p.Maps = append(p.Maps, mapReference{int(code.Offset), code.Ins.Reference()})
			if err := code.Ins.AssociateMap(noMap{}); err != nil {
				return nil, err
			}
		}
	}
	var err error
	if p.Functions, _, err = btf.MarshalExtInfos(spec.Instructions, types); err != nil {
		return nil, err
	}
	if p.AttachTo, err = attachTarget(spec, kernel); err != nil {
		return nil, err
	}
	var raw bytes.Buffer
	err = spec.Instructions.Marshal(&raw, binary.LittleEndian)
	p.Instructions = raw.Bytes()
	return p, err
}

// noMap stands for the maps until the programs are loaded.
type noMap struct{}

func (noMap) FD() int { return 0 }

// relocate puts the kernel's offsets and sizes in the place of those of kernel.h (CO-RE).
func relocate(code asm.Instructions, kernel *btf.Spec, types *btf.Builder) error {
	var relocations []*btf.CORERelocation
	var at []*asm.Instruction
	for i := range code {
		if relocation := btf.CORERelocationMetadata(&code[i]); relocation != nil {
			relocations = append(relocations, relocation)
			at = append(at, &code[i])
		}
	}
	if len(relocations) == 0 {
		return nil
	}
	fixups, err := btf.CORERelocate(relocations, []*btf.Spec{kernel}, binary.LittleEndian, types.Add)
	if err != nil {
		return fmt.Errorf("relocate against the kernel's types: %w", err)
	}
	for i, fixup := range fixups {
		if err := fixup.Apply(at[i]); err != nil {
			return fmt.Errorf("relocate %v: %w", relocations[i], err)
		}
	}
	return nil
}

// attachTargets tells how the kernel's types name what programs attach to.
var attachTargets = map[ebpf.AttachType]struct {
	prefix string
	kind   btf.Type
}{
	ebpf.AttachTraceRawTp:   {"btf_trace_", (*btf.Typedef)(nil)},
	ebpf.AttachTraceIter:    {"bpf_iter_", (*btf.Func)(nil)},
	ebpf.AttachLSMMac:       {"bpf_lsm_", (*btf.Func)(nil)},
	ebpf.AttachTraceFEntry:  {"", (*btf.Func)(nil)},
	ebpf.AttachModifyReturn: {"", (*btf.Func)(nil)},
}

func attachTarget(spec *ebpf.ProgramSpec, kernel *btf.Spec) (btf.TypeID, error) {
	target, ok := attachTargets[spec.AttachType]
	if !ok || spec.AttachTo == "" {
		return 0, nil
	}
	found := target.kind
	if err := kernel.TypeByName(target.prefix+spec.AttachTo, &found); err != nil {
		return 0, fmt.Errorf("attach to %s: %w", spec.AttachTo, err)
	}
	return kernel.TypeID(found)
}
