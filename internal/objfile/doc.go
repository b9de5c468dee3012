// Package objfile reads ELF object files: headers, segments, sections, the
// dynamic section, symbols with their versions, relocations, and the function
// table that the Go linker writes (pclntab). It follows the System V gABI, the
// x86-64 and AArch64 psABIs, the LSB's symbol versioning, and the RELR proposal
// that the gABI adopted.
//
// The input is not trusted. A malformed file gives a [*FormatError] (or
// [ErrNotELF]), never a panic, and never more memory than a fixed bound: no size
// found in the file is believed before the bytes that it counts have been found.
// Where the program loader and the section headers could disagree, the loader's
// view (program headers, PT_DYNAMIC) wins, since that is what runs.
//
// Files are read with pread and not mapped, so that a file truncated while we
// read it is an error and not a SIGBUS.
package objfile
