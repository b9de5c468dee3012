// Package dso finds the objects that a program loads: the program itself, its
// dynamic loader and everything that DT_NEEDED entries lead to, in the order in
// which the loader searches them for symbols. It follows ld.so(8) of glibc
// (DT_RPATH, DT_RUNPATH, $ORIGIN and its kin, ld.so.cache, glibc-hwcaps) and the
// rules of musl's loader (ld-musl-ARCH.path), and reads a foreign root file
// system without ever following a symbolic link out of it.
package dso
