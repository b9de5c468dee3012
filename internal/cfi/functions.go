package cfi

import (
	"slices"

	"bulkhead/internal/objfile"
)

// Functions answers for single functions of a file, from its .eh_frame alone: a walk that cannot wait until the table of a
// large file is built asks it. Not safe for concurrent use.
type Functions struct {
	frame *ehFrame
	known map[int]*Table // by index of the entry
}

// OpenFunctions reads the list of a file's functions, which takes a tenth of the time that Build takes.
func OpenFunctions(f *objfile.File) (*Functions, error) {
	e, err := readEhFrame(f)
	if err != nil {
		return nil, err
	}
	e.locate(executable(f))
	return &Functions{e, map[int]*Table{}}, nil
}

// At returns a table that holds for the function at a file offset only, or nil if .eh_frame does not describe that code.
func (x *Functions) At(offset uint64) *Table {
	entries := x.frame.entries
	i, found := slices.BinarySearchFunc(entries, offset, func(e entry, offset uint64) int {
		switch begin := e.begin + e.bias; {
		case begin < offset:
			return -1
		case begin > offset:
			return 1
		}
		return 0
	})
	if !found {
		i--
	}
	if i < 0 || offset >= entries[i].end+entries[i].bias {
		return nil
	}
	table := x.known[i]
	if table == nil {
		one := *x.frame
		one.entries, one.losses = entries[i:i+1], nil
		table = one.build(nil)
		x.known[i] = table
	}
	return table
}
