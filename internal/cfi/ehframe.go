package cfi

import (
	"errors"
	"fmt"
)

// FDE is one frame description entry: a function, or a part of one.
type FDE struct {
	Begin, End uint64 // virtual addresses
	Landing    bool   // an exception may resume inside, at a landing pad
	Signal     bool   // a signal frame (augmentation S): its caller was interrupted at its exact ip
}

// cie is a common information entry: what the FDEs that point at it share.
type cie struct {
	codeAlign uint64
	dataAlign int64
	ra        uint64 // return address column
	fdeEnc    uint8
	lsda      bool // FDEs carry augmentation data
	landing   bool // that data points at a table of landing pads
	signal    bool
	err       Reason // why FDEs of this entry cannot be used, 0 if they can
	initial   state
}

// entry is an FDE with its program, as file positions so that a large file's entries stay small.
type entry struct {
	begin, end uint64 // virtual addresses
	bias       uint64 // what to add for file offsets
	program    uint32 // position in .eh_frame
	length     uint32
	cie        *cie
	outermost  bool // the walk ends here whatever the program says
}

// errTruncated says that a section ends inside an entry.
var errTruncated = errors.New("truncated entry")

// ehFrame is a parsed .eh_frame section.
type ehFrame struct {
	data    []byte
	addr    uint64 // virtual address of data[0]
	entries []entry
	losses  []Loss // by virtual address until locate, 0 if that is not known
	cies    map[int]*cie
}

// parseEhFrame finds the entries of a section that is loaded at addr. What cannot be read becomes a loss; the error
// is for a section whose entries do not chain up, and comes with the entries before that point.
func parseEhFrame(data []byte, addr uint64) (*ehFrame, error) {
	e := &ehFrame{data: data, addr: addr, cies: make(map[int]*cie)}
	if uint64(len(data)) > 1<<32-1 {
		return e, fmt.Errorf(".eh_frame of %d bytes is too large", len(data))
	}
	e.entries = make([]entry, 0, len(data)/48)
	for pos := 0; pos < len(data); {
		next, err := e.parseEntry(pos)
		if err != nil {
			return e, fmt.Errorf(".eh_frame+%#x: %w", pos, err)
		}
		if next == pos { // the terminator
			break
		}
		pos = next
	}
	return e, nil
}

// parseEntry reads the entry at pos and returns the position of the next one, or pos itself at the terminator.
func (e *ehFrame) parseEntry(pos int) (next int, err error) {
	c := cursor{data: e.data, pos: pos}
	length := uint64(c.u32())
	if length == 0xffffffff {
		length = c.u64()
	}
	if length == 0 && !c.bad {
		return pos, nil
	}
	if c.bad || length > uint64(c.left()) || length < 4 {
		return 0, errTruncated
	}
	next = c.pos + int(length)
	c.data = e.data[:next]

	idPos := c.pos
	// In .eh_frame the id has four bytes even when the length has twelve (LSB; binutils and gcc agree).
	id := c.u32()
	if id == 0 { // a CIE, which is read when its first FDE needs it
		return next, nil
	}
	if uint64(id) > uint64(idPos) {
		return 0, errors.New("entry points before the section")
	}
	common, err := e.cieAt(idPos - int(id))
	if err != nil {
		return 0, err
	}
	e.addFDE(c, common)
	return next, nil
}

// addFDE reads an FDE behind its CIE pointer.
func (e *ehFrame) addFDE(c cursor, common *cie) {
	begin, ok := c.encoded(common.fdeEnc, e.addr, 0)
	if !ok {
		e.losses = append(e.losses, Loss{0, 0, ReasonEncoding})
		return
	}
	size, _ := c.format(common.fdeEnc)
	if common.lsda {
		c.bytes(c.uleb())
	}
	if c.bad || size == 0 || begin+size < begin {
		return // an empty range is what linkers leave of a function that they dropped
	}
	if common.err != 0 {
		e.losses = append(e.losses, Loss{begin, begin + size, common.err})
		return
	}
	e.entries = append(e.entries, entry{
		begin: begin, end: begin + size,
		program: uint32(c.pos), length: uint32(c.left()), cie: common,
	})
}

// cieAt returns the CIE at a position of the section, reading it the first time.
func (e *ehFrame) cieAt(pos int) (*cie, error) {
	if common := e.cies[pos]; common != nil {
		return common, nil
	}
	c := cursor{data: e.data, pos: pos}
	length := uint64(c.u32())
	if length == 0xffffffff {
		length = c.u64()
	}
	if c.bad || length > uint64(c.left()) {
		return nil, errTruncated
	}
	c.data = e.data[:c.pos+int(length)]
	if id := c.u32(); id != 0 || c.bad {
		return nil, fmt.Errorf("no CIE at +%#x", pos)
	}
	common := &cie{}
	if why := common.parse(&c); why != 0 {
		common.err = why
	}
	e.cies[pos] = common
	return common, nil
}

// parse reads a CIE behind its id.
func (common *cie) parse(c *cursor) Reason {
	version := c.u8()
	if version != 1 && version != 3 && version != 4 {
		return ReasonProgram
	}
	augmentation := c.cstring()
	if version == 4 {
		if addressSize, segmentSize := c.u8(), c.u8(); addressSize != 8 || segmentSize != 0 {
			return ReasonProgram
		}
	}
	common.codeAlign = c.uleb()
	common.dataAlign = c.sleb()
	if version == 1 {
		common.ra = uint64(c.u8())
	} else {
		common.ra = c.uleb()
	}
	if why := common.augment(c, augmentation); why != 0 {
		return why
	}
	if c.bad {
		return ReasonProgram
	}
	m := machine{cie: common, state: initialState}
	if !m.run(c.data[c.pos:], nil) {
		return ReasonProgram
	}
	common.initial = m.state
	return 0
}

// augment reads the augmentation data: its length (z) and then one field for each further letter.
func (common *cie) augment(c *cursor, letters string) Reason {
	if letters == "" {
		return 0
	}
	if letters[0] != 'z' {
		return ReasonEncoding
	}
	common.lsda = true
	body := cursor{data: c.bytes(c.uleb())}
	for _, letter := range letters[1:] {
		switch letter {
		case 'R':
			common.fdeEnc = body.u8()
		case 'P':
			if !body.skipEncoded(body.u8()) {
				return ReasonEncoding
			}
		case 'L':
			common.landing = body.u8() != 0xff // DW_EH_PE_omit
		case 'S':
			common.signal = true
		case 'B': // pointer authentication with the B key, arm64 only
		default: // the length lets us pass over what we do not know, as the unwinders of gcc and llvm do
			return 0
		}
	}
	if body.bad {
		return ReasonProgram
	}
	return 0
}
