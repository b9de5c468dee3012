// Package region divides the code of one object into regions: the runs of code
// that are attributed as a unit. A Go executable is divided by modules (or
// packages) through its function table, its inlining tables and its build
// information, all of which survive stripping; any object with symbols can be
// divided by patterns of function names. Rows of unwind tables carry the number of
// the region ([cfi.Row]), so that the kernel and the user-space walkers find it
// with the rule.
package region
