package policy

import (
	"fmt"
	"os"

	"bulkhead/internal/syscalls"
)

// Schema names the file's format and version.
const Schema = "bulkhead.policy/v1"

// Check says which compartments of a stack must allow a system call.
type Check string

// The checks.
const (
	Origin Check = "origin" // the origin alone
	Chain  Check = "chain"  // every compartment on the stack
)

// OnViolation says what happens to a system call that is not allowed.
type OnViolation string

// The answers to a violation.
const (
	Deny  OnViolation = "deny"  // the call fails: see [Rules.Errno]
	Kill  OnViolation = "kill"  // the process dies
	Audit OnViolation = "audit" // the call is made and reported
)

// OnExec says what happens when a process governed by the policy executes a
// program image that the policy does not list.
type OnExec string

// The answers to an unlisted image.
const (
	DenyExec    OnExec = "deny"    // execve fails
	InheritExec OnExec = "inherit" // the image is governed by the rules of the image that executed it
)

// Policy is a policy file. One that [Parse] returned is valid: it compiles
// for every program that it lists.
type Policy struct {
	// File is the name of the file that messages use, possibly empty.
	File string
	// Head is the comment at the start of the file, as in Call.
	Head        string
	Check       Check
	OnViolation OnViolation
	OnExec      OnExec
	// Conduits are patterns of file names and Go modules that add to the default
	// conduits.
	Conduits []string
	// Baseline is allowed to every compartment of every program.
	Baseline List
	// Programs are the images that may run, in the order of the file.
	Programs []Program
}

// Program is one program image: [[program]].
type Program struct {
	// Path is an absolute path or a pattern of one (path.Match), as /proc/PID/exe
	// shows it; a path that is a symbolic link stands for its target too.
	Path string
	// ABI is the program's own: that of labels without a prefix.
	ABI          syscalls.ABI
	Compartments []Compartment // in the order of the file: the first that matches has the code
	Note         string        // the comment behind [[program]]
	Line         int           // of path
}

// Compartment is a named set of code: [[program.compartment]].
type Compartment struct {
	Name string
	// Match are patterns of objects: see [Rules.Compartment]. If the file does
	// not say, the name is the only one; with Modules or Symbols it is the
	// program's own file.
	Match []string
	// Symbols and Modules take a part of the objects that match: functions by
	// pattern of their symbols, Go code by module path. At most one is set.
	Symbols []string
	Modules []string
	Allow   List
	Note    string // the comment behind [[program.compartment]]
	Line    int    // of name
}

// List is a list of system calls.
type List struct {
	Calls []Call
	Line  int // where the list begins; 0 if there is none
}

// Call is an entry of a list.
type Call struct {
	// Name is a label, "openat" or "i386:open" (syscall_N for a number without
	// a name), or a group of them, "@file-system" or "i386:@file-system".
	Name string
	// Heading are the comment lines above it, Note is the comment behind it,
	// without the # and joined by line feeds.
	Heading, Note string
	// Line and Column are its place in the file, from 1; 0 if it was not read from one.
	Line, Column int
}

// Load reads and parses a policy file.
func Load(path string) (*Policy, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	return Parse(path, data)
}
