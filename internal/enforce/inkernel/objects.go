package inkernel

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"

	"bulkhead/internal/attribution"
	"bulkhead/internal/bpf"
	"bulkhead/internal/enforce/backend"
	"bulkhead/internal/region"
)

// object is a file whose code the target may run, or the vDSO, or memory without a file. Its rows are in the kernel.
type object struct {
	backend.Object
	id      bpf.ObjectID
	err     error // why it has no rows
	regions *region.Map
	calls   bool // its return addresses follow calls: not so in Go
}

// objects knows the files by the kernel's number. Safe for concurrent use.
type objects struct {
	enforcer *bpf.Enforcer
	reader   *reader

	mu   sync.Mutex
	byID map[bpf.ObjectID]func() *object
}

func newObjects(enforcer *bpf.Enforcer, reader *reader) *objects {
	return &objects{enforcer: enforcer, reader: reader, byID: map[bpf.ObjectID]func() *object{}}
}

// memory loads what no file backs: anonymous memory, which is walked by frame pointer, and the vDSO.
func (o *objects) memory() (anonymous, vdso *object, err error) {
	anonymous = o.once(bpf.ObjectAnonymous, func() *object {
		return o.load(bpf.ObjectAnonymous, attribution.Anonymous, o.reader.of(attribution.Anonymous, nil, nil))
	})
	vdso = o.once(bpf.ObjectVDSO, func() *object {
		elf, err := backend.OpenVDSO()
		return o.load(bpf.ObjectVDSO, attribution.VDSO, o.reader.of(attribution.VDSO, elf, err))
	})
	return anonymous, vdso, errors.Join(anonymous.err, vdso.err)
}

// once returns the object with a number, which make makes for the first who asks.
func (o *objects) once(id bpf.ObjectID, make func() *object) *object {
	o.mu.Lock()
	load, known := o.byID[id]
	if !known {
		load = sync.OnceValue(make)
		o.byID[id] = load
	}
	o.mu.Unlock()
	return load()
}

// get returns a loaded object, nil if there is none with the number.
func (o *objects) get(id bpf.ObjectID) *object {
	o.mu.Lock()
	load := o.byID[id]
	o.mu.Unlock()
	if load == nil {
		return nil
	}
	return load()
}

// all returns every object that is loaded or being loaded, in no order.
func (o *objects) all() []*object {
	o.mu.Lock()
	loads := slices.Collect(maps.Values(o.byID))
	o.mu.Unlock()
	var all []*object
	for _, load := range loads {
		all = append(all, load())
	}
	return all
}

// open loads the rows of an open file, which belongs to it from now on, unless that has been done.
func (o *objects) open(file *os.File, path string) (*object, error) {
	id, err := o.enforcer.IdentifyFile(file)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	mine := false
	obj := o.once(id, func() *object {
		mine = true
		return o.load(id, path, o.reader.take(file, path))
	})
	if !mine {
		file.Close()
	}
	return obj, nil
}

// load gives the rows of code to the kernel. What has none is walked by frame pointer.
func (o *objects) load(id bpf.ObjectID, path string, c *code) *object {
	obj := &object{Object: backend.NewObject(path, c.elf), id: id, err: c.err, regions: c.regions, calls: c.calls}
	flags := make([]bpf.RegionFlags, len(obj.regions.Regions))
	for i, r := range obj.regions.Regions {
		if r.Base {
			flags[i] = bpf.RegionBase
		}
	}
	if err := o.enforcer.LoadObject(id, c.table, flags); err != nil {
		obj.err = errors.Join(obj.err, err)
	}
	return obj
}
