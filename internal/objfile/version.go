package objfile

// maxVersions bounds the version records read: an index has 15 bits.
const maxVersions = 1 << 15

const (
	versionHidden = 1 << 15 // in .gnu.version: not the default version
	versionFirst  = 2       // 0 is local, 1 is global without a version
)

// A versionTable maps the index in .gnu.version to a version name.
type versionTable []string

// name returns the version with that .gnu.version entry, or an empty string.
func (t versionTable) name(versym uint16) string {
	if i := int(versym &^ versionHidden); i >= versionFirst && i < len(t) {
		return t[i]
	}
	return ""
}

func (t *versionTable) set(index uint16, name string) {
	i := int(index &^ versionHidden)
	if i >= len(*t) {
		*t = append(*t, make(versionTable, i+1-len(*t))...)
	}
	(*t)[i] = name
}

// readVersions reads the names of the versions that the file defines
// (.gnu.version_d) and needs (.gnu.version_r).
func (f *File) readVersions() (versionTable, error) {
	d, err := f.Dynamic()
	if err != nil {
		return nil, err
	}
	var t versionTable
	if d.verdef != 0 {
		if err := f.readVerdef(d, &t); err != nil {
			return t, err
		}
	}
	if d.verneed != 0 {
		if err := f.readVerneed(d, &t); err != nil {
			return t, err
		}
	}
	return t, nil
}

func (f *File) readVerdef(d *Dynamic, t *versionTable) error {
	addr := d.verdef
	for range min(d.verdefN, maxVersions) {
		def, err := f.table(addr, 20, "version definition")
		if err != nil {
			return err
		}
		if le.Uint16(def[6:]) > 0 { // the first name is the version's own
			aux, err := f.table(addr+uint64(le.Uint32(def[12:])), 8, "version definition name")
			if err != nil {
				return err
			}
			name, err := f.dynamicString(d, uint64(le.Uint32(aux)), "the name of a version definition")
			if err != nil {
				return err
			}
			t.set(le.Uint16(def[4:]), name)
		}
		next := uint64(le.Uint32(def[16:]))
		if next == 0 {
			return nil
		}
		addr += next
	}
	return nil
}

func (f *File) readVerneed(d *Dynamic, t *versionTable) error {
	addr, budget := d.verneed, maxVersions
	for range min(d.verneedN, maxVersions) {
		need, err := f.table(addr, 16, "version need")
		if err != nil {
			return err
		}
		aux := addr + uint64(le.Uint32(need[8:]))
		for range le.Uint16(need[2:]) {
			// A chain may lead back into another: count over all of them.
			if budget--; budget < 0 {
				return f.malformed(addr, "more than %d needed versions", maxVersions)
			}
			b, err := f.table(aux, 16, "needed version")
			if err != nil {
				return err
			}
			name, err := f.dynamicString(d, uint64(le.Uint32(b[8:])), "the name of a needed version")
			if err != nil {
				return err
			}
			t.set(le.Uint16(b[6:]), name)
			next := uint64(le.Uint32(b[12:]))
			if next == 0 {
				break
			}
			aux += next
		}
		next := uint64(le.Uint32(need[12:]))
		if next == 0 {
			return nil
		}
		addr += next
	}
	return nil
}
