package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"bulkhead/internal/cfi"
	"bulkhead/internal/objfile"
)

const (
	pageSize  = 4096
	maxFrames = len(traceWalk{}.Frames)
)

// recording is all that walks depend on. testdata/walkhost reads it in the order of write.
type recording struct {
	mappings []recordedMapping
	objects  []traceObject // by ObjectID
	regions  []traceRegion
	blocks   []traceBlock
	rules    []traceRule
	pages    map[uint64]*[pageSize]byte // by address
	threads  []unix.PtraceRegs

	tables map[ObjectID]*cfi.Table // what objects, blocks and rules say, for cfi
	pid    int                     // pages that are missed are taken from this process
}

type recordedMapping struct {
	start, end, pageOffset uint64
	object                 ObjectID
	flags                  uint32
}

const (
	recordedExec = 1 << iota
	recordedBusy
)

func newRecording() *recording {
	r := &recording{
		rules: []traceRule{{}}, pages: map[uint64]*[pageSize]byte{}, tables: map[ObjectID]*cfi.Table{},
		objects: make([]traceObject, ObjectVDSO+1), regions: make([]traceRegion, 1),
	}
	for _, id := range []ObjectID{ObjectAnonymous, ObjectVDSO} {
		r.objects[id] = r.newObject(0)
	}
	return r
}

// newObject has regions with these flags.
func (r *recording) newObject(flags ...RegionFlags) traceObject {
	first := len(r.regions)
	for _, f := range flags {
		r.regions = append(r.regions, traceRegion{Flags: uint32(f)})
	}
	return traceObject{Flags: uint32(traceObjectFlagsOBJECT_READY), FirstRegion: uint32(first)}
}

// addObject does for a recording what rowStore.load does for the kernel.
func (r *recording) addObject(table *cfi.Table, regions ...RegionFlags) ObjectID {
	o := r.newObject(regions...)
	o.FirstBlock = uint32(len(r.blocks))
	ids := make([]uint16, len(table.Rules))
	for i, rule := range table.Rules {
		k := kernelRule(rule)
		id := slices.Index(r.rules, k)
		if id < 0 {
			id = len(r.rules)
			r.rules = append(r.rules, k)
		}
		ids[i] = uint16(id)
	}
	for rows := table.Rows; len(rows) > 0; o.Blocks++ {
		r.blocks = append(r.blocks, traceBlock{})
		rows = fillBlock(&r.blocks[len(r.blocks)-1], rows, ids)
	}
	id := ObjectID(len(r.objects))
	r.objects = append(r.objects, o)
	r.tables[id] = table
	return id
}

func raw[T any](s []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(*new(T))))
}

func (r *recording) write(w io.Writer) {
	w.Write(raw([]int32{int32(len(r.mappings)), int32(len(r.objects)), int32(len(r.blocks)), int32(len(r.rules)),
		int32(len(r.pages)), int32(len(r.threads)), int32(len(r.regions))}))
	for _, part := range [][]byte{raw(r.mappings), raw(r.objects), raw(r.regions), raw(r.blocks), raw(r.rules)} {
		w.Write(part)
	}
	for address, page := range r.pages {
		w.Write(raw([]uint64{address}))
		w.Write(page[:])
	}
	w.Write(raw(r.threads))
}

func (r *recording) page(address uint64) *[pageSize]byte {
	address &^= pageSize - 1
	p := r.pages[address]
	if p == nil && r.pid != 0 {
		p = new([pageSize]byte)
		local, remote := []unix.Iovec{{Base: &p[0], Len: pageSize}}, []unix.RemoteIovec{{Base: uintptr(address), Len: pageSize}}
		if n, _ := unix.ProcessVMReadv(r.pid, local, remote, 0); n != pageSize {
			return nil
		}
		r.pages[address] = p
	}
	return p
}

// ReadWord implements [cfi.Memory].
func (r *recording) ReadWord(address uint64) (uint64, error) {
	var word [1]uint64
	b := raw(word[:])
	for i := range b {
		at := address + uint64(i)
		p := r.page(at)
		if p == nil {
			return 0, fmt.Errorf("no memory at %#x", at)
		}
		b[i] = p[at%pageSize]
	}
	return word[0], nil
}

func (r *recording) frame(address uint64) (f traceFrame, ok bool) {
	for _, m := range r.mappings {
		if address < m.start || address >= m.end || m.flags&recordedExec == 0 {
			continue
		}
		f.Object = uint32(m.object)
		if m.object != ObjectAnonymous {
			f.Offset = uint32(address - m.start + m.pageOffset*pageSize)
		}
		return f, true
	}
	return f, false
}

// region is the number that a frame's region has among those of all objects.
func (r *recording) region(f traceFrame) uint32 {
	region := r.objects[f.Object].FirstRegion
	if table := r.tables[ObjectID(f.Object)]; table != nil {
		region += uint32(table.Region(uint64(f.Offset)))
	}
	return region
}

func (r *recording) resolve(address uint64) (*cfi.Table, uint64, bool) {
	f, ok := r.frame(address)
	return r.tables[ObjectID(f.Object)], uint64(f.Offset), ok
}

var breakEnds = [...]traceWalkEnd{
	cfi.BreakMemory:       traceWalkEndWALK_FAULT,
	cfi.BreakAddress:      traceWalkEndWALK_UNMAPPED,
	cfi.BreakRegister:     traceWalkEndWALK_RULE,
	cfi.BreakFramePointer: traceWalkEndWALK_STUCK,
	cfi.BreakDirection:    traceWalkEndWALK_STUCK,
	cfi.BreakDepth:        traceWalkEndWALK_DEPTH,
}

// unwind is what the kernel has to find, by cfi.
func (r *recording) unwind(regs *unix.PtraceRegs) ([]traceFrame, traceWalkEnd) {
	known := cfi.Regs{IP: regs.Rip, InSyscall: true, GPR: [16]uint64{
		regs.Rax, regs.Rdx, regs.Rcx, regs.Rbx, regs.Rsi, regs.Rdi, regs.Rbp, regs.Rsp,
		regs.R8, regs.R9, regs.R10, regs.R11, regs.R12, regs.R13, regs.R14, regs.R15}}
	walked, err := cfi.Unwind(known, r, r.resolve, maxFrames)
	frames := []traceFrame{}
	for _, w := range walked {
		f, _ := r.frame(w.PC)
		frames = append(frames, f)
	}
	var broken *cfi.WalkError
	if errors.As(err, &broken) {
		return frames, breakEnds[broken.Why]
	}
	return frames, traceWalkEndWALK_OUTERMOST
}

// hostWalks are the walks of one thread: see testdata/walkhost/main.c.
type hostWalks struct{ cold, origin, on traceWalk }

func (r *recording) walk(t *testing.T, host string) []hostWalks {
	t.Helper()
	var in, messages bytes.Buffer
	r.write(&in)
	cmd := exec.Command(host)
	cmd.Stdin, cmd.Stderr = &in, &messages
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, messages.Bytes())
	}
	walks := make([]hostWalks, len(r.threads))
	if n := copy(raw(walks), out); n != len(out) || n != len(raw(walks)) {
		t.Fatalf("%d bytes of walks, want %d", len(out), len(raw(walks)))
	}
	return walks
}

// compare walks all threads by both walkers and wants the same. It returns what walk.h found.
func (r *recording) compare(t *testing.T, host string) []traceWalk {
	t.Helper()
	frames, ends := make([][]traceFrame, len(r.threads)), make([]traceWalkEnd, len(r.threads))
	for i := range r.threads {
		frames[i], ends[i] = r.unwind(&r.threads[i]) // first, because it records pages
	}
	var found []traceWalk
	for i, w := range r.walk(t, host) {
		if diff := cmp.Diff(frames[i], w.cold.Frames[:w.cold.Depth:w.cold.Depth]); diff != "" {
			t.Errorf("thread %d: cfi and walk.h differ, ends %d and %d:\n%s", i, ends[i], w.cold.End, diff)
		} else if w.cold.End != uint8(ends[i]) {
			t.Errorf("thread %d ends at %d after %d frames by walk.h, want %d", i, w.cold.End, w.cold.Depth, ends[i])
		} else {
			r.checkOrigin(t, frames[i], &w)
		}
		found = append(found, w.cold)
	}
	return found
}

// checkOrigin derives from the frames what a walk says about them.
func (r *recording) checkOrigin(t *testing.T, frames []traceFrame, w *hostWalks) {
	t.Helper()
	chain, region, base := uint64(0xcbf29ce484222325), uint32(0), uint8(0)
	var via traceFrame
	for i, f := range frames {
		at := r.region(f)
		if at == region {
			continue
		}
		if i > 0 && r.regions[at].Flags&uint32(RegionBase) != 0 {
			base = 1
			continue
		}
		if i > 0 {
			via = frames[i-1]
		}
		chain, region = (chain^uint64(at))*0x100000001b3, at
	}
	if w.cold.Via != via || w.cold.Base != base {
		t.Errorf("the outermost region was entered by %+v, base %d, want %+v, %d", w.cold.Via, w.cold.Base, via, base)
	}
	if w.cold.Chain != chain {
		t.Errorf("chain hash %#x, want %#x", w.cold.Chain, chain)
	}
	if w.cold != w.on {
		t.Errorf("a walk to the origin and on differs from one: %d frames, end %d; %d frames, end %d",
			w.on.Depth, w.on.End, w.cold.Depth, w.cold.End)
	}
	at := slices.IndexFunc(frames, func(f traceFrame) bool {
		return r.regions[r.region(f)].Flags&uint32(RegionConduit) == 0
	})
	if at < 0 {
		if w.origin.Found != 0 || w.origin.End != w.cold.End {
			t.Errorf("origin %+v among conduits, end %d", w.origin.Origin, w.origin.End)
		}
		return
	}
	via = traceFrame{}
	if at > 0 {
		via = frames[at-1]
	}
	o := &w.origin
	if o.End != uint8(traceWalkEndWALK_ORIGIN) || o.Found != 1 || int(o.Depth) != at+1 || o.Origin != frames[at] || o.Via != via {
		t.Errorf("origin %+v via %+v after %d frames, end %d; want %+v via %+v", o.Origin, o.Via, o.Depth, o.End, frames[at], via)
	}
}

// mapProcess records the code of the process. C libraries are conduits.
func (r *recording) mapProcess(t *testing.T, tables map[string]*cfi.Table) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", r.pid))
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]ObjectID{"": ObjectAnonymous, "[vdso]": ObjectVDSO}
	for line := range strings.Lines(string(maps)) {
		var m recordedMapping
		var inode uint64
		var access, device, path string
		fmt.Sscanf(line, "%x-%x %s %x %s %d %s", &m.start, &m.end, &access, &m.pageOffset, &device, &inode, &path)
		id, known := objects[path]
		if !strings.Contains(access, "x") || !known && inode == 0 {
			continue
		}
		if !known {
			if tables[path] == nil {
				tables[path] = buildTable(t, path)
			}
			name := filepath.Base(path)
			flags := RegionFlags(0)
			if strings.HasPrefix(name, "libc.") || strings.HasPrefix(name, "ld-") {
				flags = RegionConduit
			}
			id = r.addObject(tables[path], flags)
			objects[path] = id
		}
		m.pageOffset, m.object, m.flags = m.pageOffset/pageSize, id, recordedExec
		r.mappings = append(r.mappings, m)
	}
}

func buildTable(t *testing.T, path string) *cfi.Table {
	t.Helper()
	f, err := objfile.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := cfi.Build(f)
	if err != nil {
		t.Fatal(err)
	}
	return table
}
