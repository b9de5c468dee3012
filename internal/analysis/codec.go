package analysis

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"unsafe"
)

// summaryVersion changes with everything that changes summaries.
const summaryVersion = 8

// The file of a summary is for this machine's byte order and layout of structs:
// a magic, a checksum of the rest, and then each table with its length in front.
const summaryMagic = "bhsum\x00\x00\x01"

var errSummary = errors.New("damaged summary")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A coder writes or reads the tables of a summary: the same sequence of calls
// serves both.
type coder struct {
	buf     []byte
	pos     int
	reading bool
	bad     bool
}

func encodeSummary(s *Summary) []byte {
	c := &coder{buf: append([]byte(summaryMagic), make([]byte, 8)...)}
	c.summary(s)
	binary.LittleEndian.PutUint32(c.buf[len(summaryMagic):], crc32.Checksum(c.buf[16:], castagnoli))
	return c.buf
}

func decodeSummary(data []byte) (*Summary, error) {
	if len(data) < 16 || string(data[:8]) != summaryMagic || binary.LittleEndian.Uint32(data[12:]) != 0 ||
		binary.LittleEndian.Uint32(data[8:]) != crc32.Checksum(data[16:], castagnoli) {
		return nil, errSummary
	}
	c := &coder{buf: data, pos: 16, reading: true}
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
		c.bad = true
		return
	}
	s.Streams, s.Entry = [2]uint64(streams), entry[0]
	table(c, &s.Init)
	table(c, &s.Fini)
	table(c, &s.Lazy)
	table(c, &s.Funcs)
	table(c, &s.Calls)
	table(c, &s.Args)
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
		c.bad = true
		return 0
	}
	n = int(binary.LittleEndian.Uint32(c.buf[c.pos:]))
	c.pos += 4
	if n < 0 || n > (len(c.buf)-c.pos)/size {
		c.bad = true
		return 0
	}
	return n
}

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

// table codes a slice of structs without pointers as the bytes of its memory.
func table[T any](c *coder, items *[]T) {
	var zero T
	size := int(unsafe.Sizeof(zero))
	n := c.length(len(*items), size)
	if !c.reading {
		if n > 0 {
			c.buf = append(c.buf, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(*items))), n*size)...)
		}
		return
	}
	*items = make([]T, n)
	if n > 0 {
		copy(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(*items))), n*size), c.buf[c.pos:])
	}
	c.pos += n * size
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
		c.bad = true
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
