package cfi

import (
	"cmp"
	"debug/elf"
	"fmt"
	"slices"

	"bulkhead/internal/objfile"
)

// Build makes the unwind table of a 64-bit x86 file. A file without any call frame information gives an empty table.
func Build(f *objfile.File) (*Table, error) {
	if f.Machine != elf.EM_X86_64 {
		return nil, fmt.Errorf("%s: no call frame rules for %v", f.Name, f.Machine)
	}
	e, err := readEhFrame(f)
	if err != nil {
		return nil, err
	}
	e.locate(executable(f))
	spans, losses, err := e.fill(f)
	if err != nil {
		return nil, fmt.Errorf("%s: reading code without call frame information: %w", f.Name, err)
	}
	t := e.build(spans)
	t.addLosses(losses)
	return t, nil
}

// FDEs returns the frame description entries of a file's code, sorted by address. Their begins are the starts of
// functions, or of the cold parts that compilers split off.
func FDEs(f *objfile.File) ([]FDE, error) {
	e, err := readEhFrame(f)
	if err != nil {
		return nil, err
	}
	e.locate(executable(f))
	fdes := make([]FDE, len(e.entries))
	for i, x := range e.entries {
		fdes[i] = FDE{Begin: x.begin, End: x.end, Landing: x.cie.landing, Signal: x.cie.signal}
	}
	slices.SortStableFunc(fdes, func(a, b FDE) int { return cmp.Compare(a.Begin, b.Begin) })
	return fdes, nil
}

// executable returns the parts of a file that are mapped executable.
func executable(f *objfile.File) segments {
	var segs segments
	for _, s := range f.Segments {
		if s.Type == elf.PT_LOAD && s.Flags&elf.PF_X != 0 && s.Filesz > 0 && s.Vaddr+s.Filesz > s.Vaddr {
			segs = append(segs, segment{s.Vaddr, s.Offset, s.Filesz})
		}
	}
	slices.SortFunc(segs, func(a, b segment) int { return cmp.Compare(a.vaddr, b.vaddr) })
	return segs
}

// readEhFrame parses a file's .eh_frame. The result is empty when there is none.
func readEhFrame(f *objfile.File) (*ehFrame, error) {
	data, addr, err := ehFrameData(f)
	if err != nil {
		return nil, err
	}
	e, err := parseEhFrame(data, addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name, err)
	}
	return e, nil
}

// ehFrameData returns .eh_frame and its address: by its section header, or by PT_GNU_EH_FRAME where section headers were
// stripped. It is empty when there is none.
func ehFrameData(f *objfile.File) (data []byte, addr uint64, err error) {
	if s := f.Section(".eh_frame"); s != nil && s.Type != elf.SHT_NOBITS {
		addr = s.Addr
		data, err = f.Bytes(s)
	} else {
		data, addr, err = ehFrameBySegment(f)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%s: reading .eh_frame: %w", f.Name, err)
	}
	return data, addr, nil
}

// ehFrameBySegment follows .eh_frame_hdr (LSB, "The .eh_frame_hdr section") to .eh_frame, whose end is its terminator or
// that of the segment.
func ehFrameBySegment(f *objfile.File) ([]byte, uint64, error) {
	i := slices.IndexFunc(f.Segments, func(s objfile.Segment) bool { return s.Type == elf.PT_GNU_EH_FRAME })
	if i < 0 {
		return nil, 0, nil
	}
	hdr := f.Segments[i].Vaddr
	b, err := f.ReadVaddr(hdr, 12)
	if err != nil {
		return nil, 0, err
	}
	c := cursor{data: b}
	version, enc := c.u8(), c.u8()
	c.u16() // encodings of the search table
	addr, ok := c.encoded(enc, hdr, hdr)
	if version != 1 || !ok || c.bad {
		return nil, 0, fmt.Errorf(".eh_frame_hdr version %d, pointer encoding %#x", version, enc)
	}
	for _, s := range f.Segments {
		if s.Type == elf.PT_LOAD && addr >= s.Vaddr && addr-s.Vaddr < s.Filesz {
			data, err := f.ReadVaddr(addr, s.Filesz-(addr-s.Vaddr))
			return data, addr, err
		}
	}
	return nil, 0, fmt.Errorf(".eh_frame_hdr points at %#x, which no segment holds", addr)
}
