package attribution

// Schema names the document's format and version.
const Schema = "bulkhead.attribution/v1"

// Compartments that no file backs. Anonymous memory file descriptors are
// named by [ObjectName].
const (
	Unknown   = "[unknown]"   // calls that could not be attributed
	Anonymous = "[anonymous]" // executable memory that no file backs
	VDSO      = "[vdso]"      // the code that the kernel maps into each process
)

// Compartments of Go programs that are no modules. Both are conduits.
const (
	GoStd     = "std"     // the standard library
	GoRuntime = "runtime" // what of it works for itself: starts the program, schedules, collects garbage
)

// Document says for each program image which compartment makes which system
// call.
type Document struct {
	// Schema is bulkhead.attribution/v1.
	Schema string `json:"schema"`
	// Programs has one entry per program image, in the order of their first
	// exec.
	Programs []Program `json:"programs"`
}

// Program is one program image. Path, build id and architecture identify it.
type Program struct {
	// Path is the file that was executed or analysed.
	Path string `json:"path" jsonschema:"minLength=1"`
	// BuildID is the GNU or Go build id in hexadecimal, empty if unknown.
	BuildID string `json:"build_id"`
	// Arch is the program's own ABI.
	Arch ABI `json:"arch"`
	// Objects are the ELF files and other executable memory of the program,
	// sorted by name.
	Objects []Object `json:"objects"`
	// Compartments are sorted by name.
	Compartments []Compartment `json:"compartments"`
	// Chains are the distinct sequences of compartments seen on stacks.
	Chains []Chain `json:"chains"`
	// Union has the labels of all system calls of all compartments: the name,
	// with "ABI:" in front where the ABI is not the program's own.
	Union []string `json:"union"`
	// Losses is what was not seen or not understood.
	Losses Losses `json:"losses"`
	// Complete is true exactly if nothing was lost.
	Complete bool `json:"complete"`
}

// Object is something that was mapped executable.
type Object struct {
	// Name is the file name without the folder, made unique in the program.
	Name string `json:"name" jsonschema:"minLength=1"`
	// Path is the file, or the bracketed name of memory without a file.
	Path string `json:"path" jsonschema:"minLength=1"`
	// BuildID is in hexadecimal, empty if unknown.
	BuildID string `json:"build_id"`
	// Compartment names the compartment that the object's code belongs to.
	Compartment string `json:"compartment" jsonschema:"minLength=1"`
	// Conduit is true if the object makes system calls for its callers, which
	// are charged in its place.
	Conduit bool `json:"conduit"`
	// Parts are the compartments that the object's code is divided into, sorted by
	// name: the modules of a Go program. Code in none of them belongs to
	// Compartment. Empty for most objects.
	Parts []Part `json:"parts"`
}

// Part is a compartment that has some of an object's code.
type Part struct {
	// Name is the compartment's: a module's path.
	Name string `json:"name" jsonschema:"minLength=1"`
	// Version is the module's version, that of Go for the standard library; empty
	// if unknown.
	Version string `json:"version"`
	// Conduit is as for objects.
	Conduit bool `json:"conduit"`
}

// Compartment is a named set of code with the system calls charged to it.
type Compartment struct {
	// Name is unique in the program.
	Name string `json:"name" jsonschema:"minLength=1"`
	// Syscalls are sorted by name and ABI.
	Syscalls []Syscall `json:"syscalls"`
}

// Syscall is one system call that a compartment makes.
type Syscall struct {
	// Name is the kernel's name, or syscall_N for a number without one.
	Name string `json:"name" jsonschema:"minLength=1"`
	// ABI is the table that NR belongs to; it differs from the program's arch
	// for int 0x80 and x32 calls of a 64-bit program.
	ABI ABI `json:"abi"`
	// NR is the number in the ABI's table, as the program passes it: with bit
	// 30 set for x32.
	NR int `json:"nr"`
	// Count is the number of calls seen, 0 where only static evidence exists.
	Count uint64 `json:"count"`
	// Evidence says why we think that the call is made.
	Evidence []Evidence `json:"evidence" jsonschema:"minItems=1,uniqueItems=true"`
	// Via has the conduit functions through which the calls left the
	// compartment.
	Via []string `json:"via"`
	// Example is one stack, innermost frame first: seen, or derived from the
	// code.
	Example []Frame `json:"example"`
}

// Frame is one activation on a stack.
type Frame struct {
	// Object is the name of the object whose code is active.
	Object string `json:"object"`
	// Function is the demangled name, empty if unknown.
	Function string `json:"function"`
	// Offset is in bytes from the function's start, or, without a function,
	// the offset in the object's file.
	Offset uint64 `json:"offset"`
}

// Chain is a distinct sequence of compartments on stacks, and the calls made
// with it.
type Chain struct {
	// Compartments are innermost first; conduits are left out unless there is
	// nothing else on the stack.
	Compartments []string `json:"compartments" jsonschema:"minItems=1"`
	// Syscalls are labels as in the program's union.
	Syscalls []string `json:"syscalls"`
}

// Losses is all that was not seen or not understood.
type Losses struct {
	// LostEvents counts calls that were made and are not in the counts.
	LostEvents uint64 `json:"lost_events"`
	// Unattributed counts calls charged to [unknown] because their stack did
	// not say who made them.
	Unattributed uint64 `json:"unattributed"`
	// BrokenStacks counts calls whose origin is known although the walk ended
	// before the outermost frame: their chains may be too short.
	BrokenStacks uint64 `json:"broken_stacks"`
	// UnresolvedSites are system call instructions whose number is unknown.
	UnresolvedSites []Frame `json:"unresolved_sites"`
	// OpenEnds are places where code is entered that the analysis did not see.
	OpenEnds []OpenEnd `json:"open_ends"`
}

// OpenEnd is a place where a program reaches code that was not looked at: a
// dlopen of a computed name, an indirect call without known targets.
type OpenEnd struct {
	// Object is the name of the object that holds the place.
	Object string `json:"object"`
	// Function is the demangled name, empty if unknown.
	Function string `json:"function"`
	// Offset is as in a frame.
	Offset uint64 `json:"offset"`
	// Reason says in one line what is open and what would close it.
	Reason string `json:"reason" jsonschema:"minLength=1"`
}

// ABI names a system call table.
type ABI string

// The ABIs that a document may name.
const (
	AMD64 ABI = "amd64"
	I386  ABI = "i386"
	X32   ABI = "x32"
	ARM64 ABI = "arm64"
)

var abis = []ABI{AMD64, I386, X32, ARM64}

// Evidence says why a compartment is said to make a system call.
type Evidence string

// The kinds of evidence.
const (
	Static Evidence = "static" // a path in the code
	Traced Evidence = "traced" // a stack seen
)

var kinds = []Evidence{Static, Traced}

// None reports whether nothing was lost.
func (l *Losses) None() bool {
	return l.LostEvents == 0 && l.Unattributed == 0 && l.BrokenStacks == 0 &&
		len(l.UnresolvedSites) == 0 && len(l.OpenEnds) == 0
}

// Calls returns the number of calls seen in all compartments.
func (p *Program) Calls() uint64 {
	var n uint64
	for i := range p.Compartments {
		n = sum(n, p.Compartments[i].Calls())
	}
	return n
}

// Calls returns the number of calls seen.
func (c *Compartment) Calls() uint64 {
	var n uint64
	for i := range c.Syscalls {
		n = sum(n, c.Syscalls[i].Count)
	}
	return n
}

// Label is the call's name in unions and chains of a program of the given
// architecture.
func (s *Syscall) Label(arch ABI) string { return label(arch, s.ABI, s.Name) }

func label(arch, abi ABI, name string) string {
	if abi == arch {
		return name
	}
	return string(abi) + ":" + name
}

// Compartment returns the program's compartment of that name, or nil.
func (p *Program) Compartment(name string) *Compartment {
	for i := range p.Compartments {
		if p.Compartments[i].Name == name {
			return &p.Compartments[i]
		}
	}
	return nil
}

// sum adds without wrapping, which keeps merging associative.
func sum(a, b uint64) uint64 {
	if c := a + b; c >= a {
		return c
	}
	return ^uint64(0)
}
