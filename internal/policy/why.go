package policy

import (
	"fmt"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

// Why says which lines of the file decided against a call, and which would
// allow it.
type Why struct {
	// Compartment is the one that may not make the call.
	Compartment string
	// Call is the call's label in this program: "openat", "i386:open".
	Call string
	// Decided is the place whose list lacks the call: "nginx.policy:14".
	Decided string
	// Line is the number of that line.
	Line int
	// Remedy is the edit that would allow the call:
	// `nginx.policy:17: add "openat" to allow`.
	Remedy string
}

// Why explains the denial of a call to a compartment. objectPath is the object
// that the compartment was found for: it names the remedy where no compartment
// matches it; it may be empty.
func (r *Rules) Why(id ID, objectPath string, abi syscalls.ABI, nr int) Why {
	w := Why{Compartment: r.Name(id), Call: r.Label(abi, nr)}
	c := r.compartments[id]
	line := r.Program.Line
	if c != nil {
		line = c.Allow.Line
	}
	w.Line, w.Decided = line, r.place(line)
	if name := attribution.ObjectName(objectPath); id == Unknown && objectPath != "" && objectPath != attribution.Unknown {
		w.Remedy = fmt.Sprintf("%s: below this program add [[program.compartment]] with name = %q, allow = [%q]",
			r.place(r.Program.Line), name, w.Call)
	} else if c != nil {
		w.Remedy = fmt.Sprintf("%s: add %q to allow", r.place(line), w.Call)
	} else {
		w.Remedy = fmt.Sprintf("%s: below this program add [[program.compartment]] with name = %q, allow = [%q]",
			r.place(r.Program.Line), w.Compartment, w.Call)
	}
	return w
}

func (r *Rules) place(line int) string { return fmt.Sprintf("%s:%d", r.policy.File, line) }

// Label names a system call as lists of this program do.
func (r *Rules) Label(abi syscalls.ABI, nr int) string { return label(r.Program.ABI, Number{abi, nr}) }

func label(own syscalls.ABI, n Number) string {
	name, ok := syscalls.Name(n.ABI, n.NR)
	if !ok {
		name = fmt.Sprintf("syscall_%d", n.NR)
	}
	if n.ABI != own {
		return n.ABI.String() + ":" + name
	}
	return name
}
