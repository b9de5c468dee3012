package bpf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"bulkhead/internal/cfi"
	"bulkhead/internal/filecache"
)

// programs is what all loaded objects have in common (tasks.h and walk.h): marked tasks, and objects with their rows.
type programs struct {
	shared map[string]*ebpf.Map // the maps of loaded
	loaded *ebpf.Collection
	links  []namedLink
	mark   *link.Iter
	rows   *rowStore
}

type namedLink struct {
	name string
	link.Link
}

// load loads a BPF object. The row store is ready before the verifier is done with the programs.
func (p *programs) load(spec *ebpf.CollectionSpec, object []byte, cache *filecache.Cache) error {
	var err error
	p.loaded, err = loadCollection(spec, object, cache, func(maps map[string]*ebpf.Map) {
		p.shared = maps
		p.rows = newRowStore(maps, spec.Maps["shards"].InnerMap)
	})
	return err
}

// attach attaches programs in this order, and the iterator that marks tasks.
func (p *programs) attach(marker string, names ...string) error {
	for _, name := range names {
		program := p.loaded.Programs[name]
		attach := func() (link.Link, error) { return link.AttachTracing(link.TracingOptions{Program: program}) }
		if program.Type() == ebpf.LSM {
			attach = func() (link.Link, error) { return link.AttachLSM(link.LSMOptions{Program: program}) }
		}
		l, err := attach()
		if err != nil {
			return fmt.Errorf("attach %v: %w", program, err)
		}
		p.links = append(p.links, namedLink{name, l})
	}
	var err error
	if p.mark, err = link.AttachIter(link.IterOptions{Program: p.loaded.Programs[marker]}); err != nil {
		return fmt.Errorf("attach the task iterator: %w", err)
	}
	return nil
}

// Detach ends the work of the programs; what they found can still be read.
func (p *programs) Detach() error {
	var errs []error
	for _, l := range p.links {
		errs = append(errs, l.Close())
	}
	p.links = nil
	return errors.Join(errs...)
}

func (p *programs) close() error {
	errs := []error{p.Detach()}
	if p.mark != nil {
		errs = append(errs, p.mark.Close())
	}
	errs = append(errs, p.rows.Close())
	if p.loaded != nil {
		p.loaded.Close()
	}
	return errors.Join(errs...)
}

// Mark takes all threads of a process under the programs and returns how many threads there are now.
// The process number is one of this process's PID namespace; program is the object of its main executable.
func (p *programs) Mark(pid int, program ObjectID) (uint64, error) {
	variables := p.loaded.Variables
	err := errors.Join(variables["mark_pid"].Set(uint32(pid)), variables["mark_program"].Set(uint32(program)))
	if err != nil {
		return 0, fmt.Errorf("mark process %d: %w", pid, err)
	}
	// A thread that an unmarked one starts behind the iterator's back is found by the next round.
	for before := ^uint64(0); ; {
		if err := p.markOnce(); err != nil {
			return 0, fmt.Errorf("mark process %d: %w", pid, err)
		}
		live := p.Live()
		if live == before {
			return live, nil
		}
		before = live
	}
}

func (p *programs) markOnce() error {
	r, err := p.mark.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

// Live returns the number of marked threads that have not ended.
func (p *programs) Live() uint64 {
	var n uint64
	if p.loaded.Variables["live"].Get(&n) != nil {
		return 0
	}
	return n
}

// identifyTries is how often Identify asks: while another thread of this process maps memory the kernel does not answer.
const identifyTries = 100

// Identify returns the object that the kernel takes the file behind mapped memory of this process for.
func (p *programs) Identify(mapped []byte) (ObjectID, error) {
	address := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mapped))))
	identify := p.loaded.Programs["identify"]
	for range identifyTries {
		id, err := identify.Run(&ebpf.RunOptions{Context: struct{ Args [1]uint64 }{[1]uint64{address}}})
		if err != nil {
			return ObjectUnknown, fmt.Errorf("identify a mapped file: %w", err)
		}
		if id != uint32(ObjectUnknown) {
			return ObjectID(id), nil
		}
		time.Sleep(time.Millisecond)
	}
	return ObjectUnknown, errors.New("identify a mapped file: there are more files than the kernel part has numbers for")
}

// IdentifyFile returns the kernel's number of a file. It maps the file for a moment, so that the kernel names it as it will
// when the target maps it.
func (p *programs) IdentifyFile(file *os.File) (ObjectID, error) {
	page, err := unix.Mmap(int(file.Fd()), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return ObjectUnknown, os.NewSyscallError("mmap", err)
	}
	defer unix.Munmap(page)
	return p.Identify(page)
}

// LoadObject gives the kernel the rows of an object (nil: none, its stacks are walked by frame pointer) and the flags
// of its regions, by the numbers that the rows have for them, and opens it for walks. There is at least region 0.
func (p *programs) LoadObject(id ObjectID, table *cfi.Table, regions []RegionFlags) error {
	return p.rows.load(id, table, regions)
}
