package objfile

import (
	"debug/elf"
	"encoding/hex"
)

const ntGNUBuildID = 3

// readBuildID looks for the GNU build id in the note segments, then in the note
// sections, which is where relocatable files have it. A malformed note gives no
// build id and no error: the loader does not read them.
func (f *File) readBuildID() (string, error) {
	for _, s := range f.Segments {
		if s.Type != elf.PT_NOTE {
			continue
		}
		if id, err := f.buildIDAt(s.Offset, s.Filesz, s.Align); id != "" || err != nil {
			return id, err
		}
	}
	for _, s := range f.Sections {
		if s.Type != elf.SHT_NOTE {
			continue
		}
		if id, err := f.buildIDAt(s.Offset, s.Size, s.Align); id != "" || err != nil {
			return id, err
		}
	}
	return "", nil
}

func (f *File) buildIDAt(off, size, align uint64) (string, error) {
	if size > maxNotes {
		return "", nil
	}
	b, err := f.bytesAt(off, size, "notes")
	if isFormat(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return buildID(b, align), nil
}

// buildID finds NT_GNU_BUILD_ID among notes. Name and descriptor are padded to 4
// bytes, or to 8 where the segment is aligned so.
func buildID(b []byte, align uint64) string {
	pad := func(n uint64) uint64 { return (n + 3) &^ 3 }
	if align == 8 {
		pad = func(n uint64) uint64 { return (n + 7) &^ 7 }
	}
	for len(b) >= 12 {
		namesz, descsz := uint64(le.Uint32(b)), uint64(le.Uint32(b[4:]))
		desc := pad(12 + namesz)
		if desc > uint64(len(b)) || descsz > uint64(len(b))-desc {
			return ""
		}
		if le.Uint32(b[8:]) == ntGNUBuildID && string(b[12:12+namesz]) == "GNU\x00" && descsz > 0 {
			return hex.EncodeToString(b[desc : desc+descsz])
		}
		b = b[min(pad(desc+descsz), uint64(len(b))):]
	}
	return ""
}
