package dso

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Layout of ld.so.cache, glibc's sysdeps/generic/dl-cache.h. An old-format cache
// may precede the new one; its entries are 12 bytes.
const (
	cacheMagicOld  = "ld.so-1.7.0"
	cacheMagicNew  = "glibc-ld.so.cache1.1"
	cacheHeaderLen = 48
	cacheEntryLen  = 24

	cacheExtensionMagic  = 0xeaa42174
	cacheExtensionHwcaps = 1

	hwcapIsExtension = 1 << 62 // the low 32 bits index the glibc-hwcaps names
)

// Flags of a cache entry: the low byte says "ELF, libc6", the next byte the ABI.
const (
	cacheFlagsAMD64 = 0x0303
	cacheFlagsARM64 = 0x0a03
	cacheFlagsI386  = 0x0003
)

// A cacheEntry maps a DT_NEEDED name to a path.
type cacheEntry struct {
	name, path string
	flags      uint32
	hwcap      string // the glibc-hwcaps subdirectory, "" for the base variant
	legacy     bool   // needs a hardware capability of the kind dropped in glibc 2.37
}

var errCache = errors.New("malformed ld.so.cache")

// parseCache reads the entries of an ld.so.cache in file order.
func parseCache(data []byte) ([]cacheEntry, error) {
	base, err := cacheStart(data)
	if err != nil {
		return nil, err
	}
	data = data[base:] // string offsets count from the start of the new format
	if len(data) < cacheHeaderLen {
		return nil, fmt.Errorf("%w: header cut short", errCache)
	}
	le := binary.LittleEndian
	n := uint64(le.Uint32(data[20:]))
	if cacheHeaderLen+n*cacheEntryLen > uint64(len(data)) {
		return nil, fmt.Errorf("%w: %d entries do not fit in %d bytes", errCache, n, len(data))
	}
	hwcaps := cacheHwcaps(data, le.Uint32(data[32:]))
	entries := make([]cacheEntry, 0, n)
	for i := range n {
		raw := data[cacheHeaderLen+i*cacheEntryLen:]
		name, ok1 := cString(data, le.Uint32(raw[4:]))
		path, ok2 := cString(data, le.Uint32(raw[8:]))
		if !ok1 || !ok2 {
			return nil, fmt.Errorf("%w: entry %d points outside the file", errCache, i)
		}
		e := cacheEntry{name: name, path: path, flags: le.Uint32(raw)}
		switch hwcap := le.Uint64(raw[16:]); {
		case hwcap&hwcapIsExtension != 0:
			idx := uint32(hwcap)
			if uint64(idx) >= uint64(len(hwcaps)) {
				return nil, fmt.Errorf("%w: entry %d names hwcaps %d of %d", errCache, i, idx, len(hwcaps))
			}
			e.hwcap = hwcaps[idx]
		case hwcap != 0:
			e.legacy = true
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// cacheStart finds the new-format cache, which may follow an old-format one.
func cacheStart(data []byte) (int, error) {
	if bytes.HasPrefix(data, []byte(cacheMagicNew)) {
		return 0, nil
	}
	if !bytes.HasPrefix(data, []byte(cacheMagicOld)) || len(data) < 16 {
		return 0, fmt.Errorf("%w: unknown magic", errCache)
	}
	n := uint64(binary.LittleEndian.Uint32(data[12:]))
	at := (16 + n*12 + 7) &^ 7
	if at > uint64(len(data)) || !bytes.HasPrefix(data[at:], []byte(cacheMagicNew)) {
		return 0, fmt.Errorf("%w: no new-format part", errCache)
	}
	return int(at), nil
}

// cacheHwcaps reads the names of the glibc-hwcaps subdirectories from the
// extension directory at offset at; 0 means that there is none.
func cacheHwcaps(data []byte, at uint32) []string {
	le := binary.LittleEndian
	if at == 0 || uint64(at)+8 > uint64(len(data)) || le.Uint32(data[at:]) != cacheExtensionMagic {
		return nil
	}
	sections := data[at+8:]
	for i := uint32(0); i < le.Uint32(data[at+4:]) && len(sections) >= 16; i++ {
		tag, off, size := le.Uint32(sections), le.Uint32(sections[8:]), le.Uint32(sections[12:])
		sections = sections[16:]
		if tag != cacheExtensionHwcaps || uint64(off)+uint64(size) > uint64(len(data)) {
			continue
		}
		var names []string
		for o := off; o+4 <= off+size; o += 4 {
			name, ok := cString(data, le.Uint32(data[o:]))
			if !ok {
				return nil
			}
			names = append(names, name)
		}
		return names
	}
	return nil
}

// cString returns the NUL-terminated string at offset off.
func cString(data []byte, off uint32) (string, bool) {
	if uint64(off) >= uint64(len(data)) {
		return "", false
	}
	end := bytes.IndexByte(data[off:], 0)
	if end < 0 {
		return "", false
	}
	return string(data[off : int(off)+end]), true
}
