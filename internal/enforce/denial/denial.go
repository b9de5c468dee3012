package denial

import (
	"bulkhead/internal/attribution"
)

// Action is what became of a call.
type Action string

// The actions.
const (
	Denied  Action = "denied"  // it failed with Errno and had no effect
	Killed  Action = "killed"  // the process was ended before it had any
	Audited Action = "audited" // it was reported and made
)

// Denial is a system call that a policy does not allow.
type Denial struct {
	Time     uint64 // CLOCK_MONOTONIC, ns
	PID, TID int
	Action   Action
	Errno    string // "EPERM"; empty unless Denied

	Program        string // path of the program image
	ProgramBuildID string
	Arch           attribution.ABI // the program's own
	Compartment    string          // the one that may not make the call
	Call           attribution.Call
	Args           []string // decoded: see [Arguments]
	// Stack is as far as it could be walked, innermost frame first.
	Stack []Frame
	// Whole is false where the outermost frame was not reached.
	Whole bool

	// Decided is the place in the policy whose list lacks the call, and Remedy the edit that would allow it; or the rule of
	// Bulkhead's own that forbids the call whatever the policy says, and what to do.
	Decided, Remedy string
}

// Frame is one activation on the stack.
type Frame struct {
	Path        string // the object's, or the bracketed name of memory without a file
	BuildID     string
	Compartment string
	Conduit     bool
	Function    string // demangled, empty if unknown
	Offset      uint64 // from the function's start; without one, in the file
}

func (f *Frame) object() string { return attribution.ObjectName(f.Path) }
