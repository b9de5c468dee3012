package analysis

import (
	"bytes"
	"encoding/binary"
	"errors"
	"unsafe"
)

// summaryVersion changes with everything that changes summaries.
const summaryVersion = 18

// The file of a summary is for this machine's byte order and layout of structs:
// a magic, and then each table with its length in front.
const summaryMagic = "bhsum\x00\x00\x02"

var errSummary = errors.New("not a summary")

// A coder writes or reads the tables of a summary: the same sequence of calls
// serves both.
type coder struct {
	buf     []byte
	pos     int
	reading bool
	bad     bool
}

func encodeSummary(s *Summary) []byte {
	c := &coder{buf: []byte(summaryMagic)}
	c.summary(s)
	return c.buf
}

func decodeSummary(data []byte) (*Summary, error) {
	if !bytes.HasPrefix(data, []byte(summaryMagic)) {
		return nil, errSummary
	}
	if uintptr(unsafe.Pointer(unsafe.SliceData(data)))%tableAlign != 0 {
		data = bytes.Clone(data)
	}
	c := &coder{buf: data, pos: len(summaryMagic), reading: true}
	s := new(Summary)
	c.summary(s)
	if c.bad || c.pos != len(data) {
		return nil, errSummary
	}
	return s, nil
}

func (c *coder) summary(s *Summary) {
	c.str(&s.BuildID)
	c.str(&s.Soname)
	c.str(&s.Interp)
	flags := []bool{s.Go, s.Static, s.BindLazy}
	table(c, &flags)
	if len(flags) == 3 {
		s.Go, s.Static, s.BindLazy = flags[0], flags[1], flags[2]
	}
	streams := s.Streams[:]
	entry := []uint32{s.Entry}
	table(c, &streams)
	table(c, &entry)
	if len(streams) != 2 || len(entry) != 1 {
		c.fail()
		return
	}
	s.Streams, s.Entry = [2]uint64(streams), entry[0]
	table(c, &s.Init)
	table(c, &s.Fini)
	table(c, &s.Lazy)
	table(c, &s.Funcs)
	table(c, &s.Calls)
	table(c, &s.Args)
	table(c, &s.Whens)
	table(c, &s.Refs)
	table(c, &s.Sites)
	table(c, &s.Returns)
	table(c, &s.Exprs)
	table(c, &s.Spans)
	table(c, &s.Slots)
	table(c, &s.Copies)
	table(c, &s.Gaps)
	list(c, &s.Imports, func(x *Import) { c.str(&x.Name); c.str(&x.Version); word(c, &x.Weak) })
	list(c, &s.Exports, func(x *Export) {
		c.str(&x.Name)
		c.str(&x.Version)
		word(c, &x.Default)
		word(c, &x.Kind)
		word(c, &x.Value)
		word(c, &x.Size)
		word(c, &x.Func)
	})
	list(c, &s.Strings, func(x *String) { word(c, &x.Call); word(c, &x.Reg); c.str(&x.Text) })
	list(c, &s.Names, func(x *Name) { word(c, &x.Func); word(c, &x.Off); c.str(&x.Text) })
}

// length codes a count of items of at least size bytes each.
func (c *coder) length(n, size int) int {
	if !c.reading {
		c.buf = binary.LittleEndian.AppendUint32(c.buf, uint32(n))
		return n
	}
	if c.pos+4 > len(c.buf) {
		c.fail()
		return 0
	}
	n = int(binary.LittleEndian.Uint32(c.buf[c.pos:]))
	c.pos += 4
	if n > (len(c.buf)-c.pos)/size {
		c.fail()
		return 0
	}
	return n
}

// fail ends the reading: nothing is left.
func (c *coder) fail() { c.bad, c.pos = true, len(c.buf) }

func (c *coder) str(s *string) {
	n := c.length(len(*s), 1)
	if !c.reading {
		c.buf = append(c.buf, *s...)
		return
	}
	// The string shares the file's memory, which lives as long as the summary.
	*s = unsafe.String(unsafe.SliceData(c.buf[c.pos:]), n)
	c.pos += n
}

// table codes a slice of structs without pointers as the bytes of its memory. What
// is read shares the file's memory, so that the largest summaries cost no more than
// reading their file.
func table[T any](c *coder, items *[]T) {
	var zero T
	size := int(unsafe.Sizeof(zero))
	n := c.length(len(*items), size)
	c.align()
	if !c.reading {
		if n > 0 {
			c.buf = append(c.buf, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(*items))), n*size)...)
		}
		return
	}
	if c.pos+n*size > len(c.buf) {
		c.fail()
		return
	}
	*items = unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(c.buf[c.pos:]))), n)
	c.pos += n * size
}

// tableAlign is the strictest alignment of what tables hold. The memory of a whole
// file has it, too, if it is allocated by itself.
const tableAlign = 8

func (c *coder) align() {
	if !c.reading {
		c.buf = append(c.buf, make([]byte, -len(c.buf)&(tableAlign-1))...)
		return
	}
	c.pos += -c.pos & (tableAlign - 1)
}

// word codes one value without pointers.
func word[T any](c *coder, v *T) {
	size := int(unsafe.Sizeof(*v))
	raw := unsafe.Slice((*byte)(unsafe.Pointer(v)), size)
	if !c.reading {
		c.buf = append(c.buf, raw...)
		return
	}
	if c.pos+size > len(c.buf) {
		c.fail()
		return
	}
	copy(raw, c.buf[c.pos:])
	c.pos += size
}

// list codes a slice item by item.
func list[T any](c *coder, items *[]T, item func(*T)) {
	n := c.length(len(*items), 1)
	if c.reading {
		*items = make([]T, n)
	}
	for i := range *items {
		item(&(*items)[i])
	}
}
