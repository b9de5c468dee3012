package analysis

import "slices"

// A Summary is what one object's code and data can do, before it is linked with
// others: every address is the object's own, every reference to another object
// is an import. It depends on the content of the file alone.
type Summary struct {
	BuildID string
	Soname  string
	Interp  string
	Go      bool // a Go program: everything that the linker kept counts as reachable
	Static  bool // relocates and starts itself

	Entry    uint32   // function of the entry point, or none
	Init     []uint32 // functions run before main: DT_INIT, DT_PREINIT_ARRAY, DT_INIT_ARRAY
	Fini     []uint32
	Lazy     []uint32 // of a loader: what the first call through a linkage table enters
	BindLazy bool     // calls through the PLT may enter the dynamic loader

	Imports []Import
	Exports []Export // sorted by name
	Funcs   []Func   // sorted by Start
	Calls   []Call
	Args    []Arg
	Whens   []When // the first stands for none
	Refs    []Ref
	Sites   []Site
	Returns []uint32 // expressions that IFUNC resolvers return
	Exprs   []Expr
	Spans   []Span // sorted by Start
	Slots   []Slot // sorted by Addr
	Copies  []Copy
	// Streams bounds glibc's tables of stream functions, or is zero: a call through any
	// other table is refused (IO_validate_vtable).
	Streams [2]uint64
	Strings []String // constant strings handed to imported functions
	Names   []Name   // constants that may lead to other libraries
	Gaps    []Gap    // code that could not be decoded
}

// none stands for an absent index.
const none = ^uint32(0)

// An Import is a symbol of another object.
type Import struct {
	Name, Version string
	Weak          bool
}

// An Export is a symbol that other objects can bind to.
type Export struct {
	Name, Version string
	Default       bool // of its versions: what an import without version binds to
	Kind          ExportKind
	Value, Size   uint64
	Func          uint32 // of code: the function that holds Value
}

// ExportKind says what an exported symbol names.
type ExportKind uint8

// The kinds of exports.
const (
	ExportData ExportKind = iota
	ExportFunc
	ExportResolver // STT_GNU_IFUNC: the function returns the address to call
)

// A Func is a run of code that is entered at its start. Calls, Refs, Sites and
// Returns are the ends of its runs in the summary's tables; each run starts
// where that of the function before it ends.
type Func struct {
	Start                       uint64
	Size                        uint32
	Calls, Refs, Sites, Returns uint32
	Names                       uint32
	// Escapes has the registers (bit n: register n) whose value at entry the
	// function stores or hands on in ways that are not followed. Uses has those
	// whose value at entry is called, handed on or used as a system call number.
	// Tests has those that decide whether calls are made (Call.When).
	Escapes, Uses, Tests uint32
	Streams              bool // names the tables of stream functions
}

// A Call is a call or a tail jump.
type Call struct {
	Off    uint32 // from the function's start, of the instruction
	Kind   CallKind
	Tail   bool   // a jump: the frame of the function is gone
	Target uint32 // function, import or expression
	Args   uint32 // end of its run in Args
	When   uint32 // for which values of a parameter it is made; 0: for all
}

// CallKind says what Call.Target is.
type CallKind uint8

// The kinds of calls.
const (
	CallFunc CallKind = iota
	CallImport
	CallIndirect
)

// An Arg is what a register may hold at a call that matters to the callee.
type Arg struct {
	Reg  uint8
	Expr uint32
}

// A Ref is an address that escapes: it is stored, returned or used in a way that
// is not followed, so that it may be called or read from anywhere.
type Ref struct {
	Off    uint32 // from the function's start, of the instruction
	Kind   RefKind
	Target uint32 // function, span, import or slot
	Addend int64  // into the import
}

// RefKind says what Ref.Target is.
type RefKind uint8

// The kinds of references.
const (
	RefFunc       RefKind = iota // a function's address
	RefSpan                      // the address of data
	RefImport                    // the address of an imported symbol
	RefSlot                      // the value in a slot
	RefImportSlot                // the value in imported data
)

// A Site is a system call instruction.
type Site struct {
	Off  uint32
	ABI  SiteABI
	Expr uint32 // the number
}

// SiteABI is the table that the instruction's numbers belong to.
type SiteABI uint8

// The instructions' tables: syscall, and sysenter or int 0x80.
const (
	SiteAMD64 SiteABI = iota
	SiteI386
)

// An Expr is a value at some instruction.
type Expr struct {
	Op ExprOp
	I  uint32 // import, register, base expression, or start of a set in Exprs
	N  int64  // constant, address, offset, or members of a set
}

// ExprOp is the operator of an expression.
type ExprOp uint8

// The operators.
const (
	OpUnknown    ExprOp = iota
	OpConst             // N
	OpFunc              // the address of function I
	OpData              // the address N of data
	OpImport            // the address of import I, plus N
	OpParam             // what register I held at the function's entry
	OpStackParam        // what was at N(rsp) at the function's entry
	OpSlot              // what is at the fixed address N
	OpImportSlot        // what is at import I plus N
	OpLoad              // what is at expression I plus N
	OpGuarded           // a pointer that was kept mangled with glibc's pointer guard
	OpSet               // one of the N expressions from I on
	OpDeferred          // a func value that this function of Go has deferred
)

// A Span is a piece of data whose words are reached together: the objects
// between two addresses that are known to start one.
type Span struct {
	Start, End uint64
	Slots      uint32 // end of its run in Slots
}

// A Slot is an aligned word of data that holds an address.
type Slot struct {
	Addr   uint64
	Kind   SlotKind
	Fixed  bool   // nothing writes it once the dynamic loader is done
	Target uint32 // function, span, or import; for SlotResolver the resolver
	Addend int64  // into the import, or into the span
}

// SlotKind says what Slot.Target is.
type SlotKind uint8

// The kinds of slots.
const (
	SlotFunc SlotKind = iota
	SlotData
	SlotImport
	SlotResolver // R_X86_64_IRELATIVE
)

// A Copy is data that the program holds in place of a library (R_X86_64_COPY).
type Copy struct {
	Addr   uint64
	Import uint32
}

// A String is a constant string that a call hands over.
type String struct {
	Call uint32
	Reg  uint8
	Text string
}

// A Name is a constant string that a function names: one that looks like a
// library's, or one that gives a plug-in loader away.
type Name struct {
	Func uint32
	Off  uint32
	Text string
}

// A Gap is code that was reached but could not be decoded.
type Gap struct {
	Func uint32
	Off  uint32
}

// run returns the bounds of function i's run in a table whose ends end gives.
func run(funcs []Func, i uint32, end func(*Func) uint32) (from, to uint32) {
	if i > 0 {
		from = end(&funcs[i-1])
	}
	return from, end(&funcs[i])
}

func (s *Summary) calls(i uint32) []Call {
	from, to := run(s.Funcs, i, func(f *Func) uint32 { return f.Calls })
	return s.Calls[from:to]
}

func (s *Summary) firstCall(i uint32) uint32 {
	from, _ := run(s.Funcs, i, func(f *Func) uint32 { return f.Calls })
	return from
}

func (s *Summary) refs(i uint32) []Ref {
	from, to := run(s.Funcs, i, func(f *Func) uint32 { return f.Refs })
	return s.Refs[from:to]
}

func (s *Summary) sites(i uint32) []Site {
	from, to := run(s.Funcs, i, func(f *Func) uint32 { return f.Sites })
	return s.Sites[from:to]
}

func (s *Summary) returns(i uint32) []uint32 {
	from, to := run(s.Funcs, i, func(f *Func) uint32 { return f.Returns })
	return s.Returns[from:to]
}

func (s *Summary) names(i uint32) []Name {
	from, to := run(s.Funcs, i, func(f *Func) uint32 { return f.Names })
	return s.Names[from:to]
}

// stringsAt returns the index of the first string of call c.
func (s *Summary) stringsAt(c uint32) int {
	i, _ := slices.BinarySearchFunc(s.Strings, c, func(x String, c uint32) int { return int(x.Call) - int(c) })
	return i
}

// args returns the arguments of call i of the table Calls.
func (s *Summary) args(i uint32) []Arg {
	var from uint32
	if i > 0 {
		from = s.Calls[i-1].Args
	}
	return s.Args[from:s.Calls[i].Args]
}

func (s *Summary) slotsOf(span uint32) []Slot {
	var from uint32
	if span > 0 {
		from = s.Spans[span-1].Slots
	}
	return s.Slots[from:s.Spans[span].Slots]
}
