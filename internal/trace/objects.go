package trace

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"

	"bulkhead/internal/attribution"
	"bulkhead/internal/bpf"
	"bulkhead/internal/cfi"
	"bulkhead/internal/dso"
	"bulkhead/internal/objfile"
	"bulkhead/internal/region"
)

// object is a file (or the vDSO) whose code the target runs. Its rows are loaded once; loaded is closed after that.
type object struct {
	id   bpf.ObjectID
	path string

	reading  func() *reading
	loaded   chan struct{}
	fileRows // valid once loaded is closed

	symbols func() *objfile.Symbolizer
	imports func() imports
	exports func() map[string]bool
}

// objects knows the files by the kernel's number and by what perf records call them. Safe for concurrent use.
type objects struct {
	numbers numbering
	rows    *rowReader

	mu     sync.Mutex
	byID   map[bpf.ObjectID]*object
	byFile map[dso.FileID]*object
}

// numbering gives files their numbers and takes the rows of each: the kernel part, or without one ownNumbers.
type numbering interface {
	identify(*os.File) (bpf.ObjectID, error)
	loadObject(bpf.ObjectID, *cfi.Table, []bpf.RegionFlags) error
}

// kernelNumbers are those of the kernel part.
type kernelNumbers struct{ tracer *bpf.Tracer }

func newObjects(numbers numbering, rows *rowReader) (*objects, error) {
	o := &objects{
		numbers: numbers, rows: rows,
		byID:   map[bpf.ObjectID]*object{},
		byFile: map[dso.FileID]*object{},
	}
	if err := o.addAnonymous(); err != nil {
		return nil, err
	}
	if err := o.addVDSO(); err != nil {
		return nil, err
	}
	return o, nil
}

// addAnonymous opens memory without a file for walks by frame pointer.
func (o *objects) addAnonymous() error {
	anonymous, _ := o.add(bpf.ObjectAnonymous, attribution.Anonymous, nil)
	close(anonymous.loaded)
	return o.numbers.loadObject(anonymous.id, nil, regionFlags(anonymous.regions()))
}

// addVDSO reads the vDSO from this process: the kernel maps the same one everywhere.
func (o *objects) addVDSO() error {
	vdso, _ := o.add(bpf.ObjectVDSO, attribution.VDSO, nil)
	image, err := readVDSO()
	if err != nil {
		return err
	}
	elf, err := objfile.NewFile(bytes.NewReader(image), int64(len(image)), attribution.VDSO)
	if err != nil {
		return err
	}
	table, err := o.rows.cache.Load(elf)
	rows := fileRows{&heldTable{table: table}, func() *objfile.File { return elf }, err}
	o.load(vdso, rows)
	return vdso.err
}

func readVDSO() ([]byte, error) {
	mappings, err := dso.Mappings(os.Getpid())
	if err != nil {
		return nil, err
	}
	for _, m := range mappings {
		if m.File.Path != attribution.VDSO {
			continue
		}
		memory, err := os.Open("/proc/self/mem")
		if err != nil {
			return nil, err
		}
		defer memory.Close()
		image := make([]byte, m.End-m.Start)
		if _, err := memory.ReadAt(image, int64(m.Start)); err != nil {
			return nil, fmt.Errorf("read the vDSO: %w", err)
		}
		return image, nil
	}
	return nil, errors.New("no vDSO is mapped")
}

// add returns the object with a number, a fresh one if there was none: whoever gets that has to load it.
func (o *objects) add(id bpf.ObjectID, path string, file *os.File) (obj *object, fresh bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if known := o.byID[id]; known != nil {
		return known, false
	}
	obj = &object{id: id, path: path, loaded: make(chan struct{})}
	obj.reading = sync.OnceValue(func() *reading {
		if file == nil {
			return o.rows.failed(path, errGone)
		}
		return o.rows.read(file, path)
	})
	obj.symbols = sync.OnceValue(func() *objfile.Symbolizer {
		elf := obj.fresh()
		if elf == nil {
			return nil
		}
		symbols, _ := elf.Symbolizer() // what could be read of them
		return symbols
	})
	obj.imports = sync.OnceValue(func() imports { return readImports(obj.fresh()) })
	obj.exports = sync.OnceValue(func() map[string]bool {
		if elf := obj.fresh(); elf != nil {
			return readExports(elf)
		}
		return nil
	})
	o.byID[id] = obj
	return obj, true
}

// get returns the object with the kernel's number; nil if it never could be opened.
func (o *objects) get(id bpf.ObjectID) *object {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.byID[id]
}

// openPath adds the file at a path and starts loading it.
func (o *objects) openPath(path string) (*object, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return o.open(file, path)
}

// program returns the number of a process's main executable.
func (o *objects) program(pid int) (bpf.ObjectID, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/exe", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return bpf.ObjectUnknown, fmt.Errorf("process %d has ended or is a kernel thread", pid)
	}
	if err != nil {
		return bpf.ObjectUnknown, err
	}
	defer file.Close()
	return o.numbers.identify(file)
}

// openMapping adds the file behind a mapping of a process and starts loading it. It is found even when it was deleted or
// replaced, as long as the process has it mapped, and by its path after that.
func (o *objects) openMapping(m processMapping) (*object, error) {
	switch {
	case m.File.Path == attribution.VDSO:
		return o.get(bpf.ObjectVDSO), nil
	case !m.File.Backed():
		return o.get(bpf.ObjectAnonymous), nil
	}
	o.mu.Lock()
	known, seen := o.byFile[m.File]
	o.mu.Unlock()
	if seen {
		return known, nil
	}
	file, err := dso.OpenMapped(m.pid, m.Mapping)
	if err != nil {
		return nil, err
	}
	obj, err := o.open(file, m.File.Path)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.byFile[m.File] = obj
	return obj, nil
}

// open asks the kernel for the file's number and starts loading its rows.
func (o *objects) open(file *os.File, path string) (*object, error) {
	id, err := o.numbers.identify(file)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	obj, fresh := o.add(id, path, file)
	if !fresh {
		file.Close()
		return obj, nil
	}
	go func() { o.load(obj, obj.reading().rows()) }()
	return obj, nil
}

func (k kernelNumbers) identify(file *os.File) (bpf.ObjectID, error) {
	return k.tracer.IdentifyFile(file)
}

func (k kernelNumbers) loadObject(id bpf.ObjectID, table *cfi.Table, regions []bpf.RegionFlags) error {
	return k.tracer.LoadObject(id, table, regions)
}

// load gives the rows of an object to the kernel.
func (o *objects) load(obj *object, rows fileRows) {
	defer close(obj.loaded)
	obj.fileRows = rows
	regions := regionFlags(obj.regions())
	defer obj.table.drop()
	if err := o.numbers.loadObject(obj.id, obj.table.get(), regions); err != nil {
		// Without rows, but open: a walk through it is broken and counted, not captured again and again.
		obj.err = errors.Join(obj.err, err, o.numbers.loadObject(obj.id, nil, regions[:1]))
	}
}

// wait returns when all objects known so far are loaded.
func (o *objects) wait() {
	o.mu.Lock()
	all := slices.Collect(maps.Values(o.byID))
	o.mu.Unlock()
	for _, obj := range all {
		<-obj.loaded
	}
}

// giveUp opens an object for walks that could not be read at all, so that its stacks are counted as broken.
func (o *objects) giveUp(id bpf.ObjectID) *object {
	obj, fresh := o.add(id, fmt.Sprintf("[file %d]", id), nil)
	if fresh {
		o.load(obj, fileRows{err: errGone})
	}
	return obj
}

// lose is giveUp for a file of which a mapping is known: it keeps its name.
func (o *objects) lose(id bpf.ObjectID, m mapping) *object {
	obj, fresh := o.add(id, m.File.Path, nil)
	if fresh {
		o.load(obj, fileRows{err: errGone})
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.byFile[m.File] = obj
	return obj
}

var errGone = errors.New("the file was gone before it could be read")

// regions are those of the object, which are there before its rows.
func (obj *object) regions() *region.Map { return obj.reading().regions() }

// regionFlags says what the kernel has to know of regions.
func regionFlags(m *region.Map) []bpf.RegionFlags {
	flags := make([]bpf.RegionFlags, len(m.Regions))
	for i, r := range m.Regions {
		if r.Conduit {
			flags[i] |= bpf.RegionConduit
		}
		if r.Base {
			flags[i] |= bpf.RegionBase
		}
	}
	return flags
}

// call is a function that is active at an instruction.
type call struct {
	function string
	offset   uint64 // as in attribution.Frame
	part     uint16
}

// calls names what is active at a file offset, innermost first: functions that were inlined there, and the one that
// holds the code.
func (obj *object) calls(fileOffset uint32) []call {
	function, offset := obj.symbolize(fileOffset)
	regions := obj.regions()
	if !regions.Divided() {
		return []call{{function, offset, 0}}
	}
	vaddr, _ := obj.image().OffsetToVaddr(uint64(fileOffset))
	active := regions.Calls(vaddr, uint64(fileOffset))
	calls := make([]call, len(active))
	for i, c := range active {
		calls[i] = call{c.Function, 0, c.Part}
	}
	calls[len(calls)-1].function, calls[len(calls)-1].offset = function, offset
	return calls
}

// compartment names the compartment that is charged with calls from a file offset.
func (obj *object) compartment(fileOffset uint32) string {
	regions := obj.regions()
	if part := regions.Parts[regions.Origin(regions.Region(uint64(fileOffset)))]; part.Name != "" {
		return part.Name
	}
	return attribution.ObjectName(obj.path)
}

// image is the object's file, nil if it is none or was gone before it was read.
func (obj *object) image() *objfile.File {
	if obj.elf == nil {
		return nil
	}
	return obj.elf()
}

// fresh is the object's file for one use: what it reads of large tables goes with it.
func (obj *object) fresh() *objfile.File {
	if file := obj.reading().file; file != nil {
		return openELF(file, obj.path)()
	}
	return obj.image()
}

func (obj *object) buildID() string {
	if elf := obj.image(); elf != nil {
		return elf.BuildID
	}
	return ""
}

// symbolize names the code at a file offset: the function and the offset in it, or no name and the file offset.
func (obj *object) symbolize(fileOffset uint32) (function string, offset uint64) {
	offset = uint64(fileOffset)
	symbols := obj.symbols()
	if symbols == nil {
		return "", offset
	}
	vaddr, ok := obj.image().OffsetToVaddr(offset)
	if !ok {
		return "", offset
	}
	if name, at, ok := symbols.Lookup(vaddr); ok {
		return name, at
	}
	return "", offset
}
