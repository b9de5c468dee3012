package denial

import (
	"fmt"
	"strings"

	"bulkhead/internal/attribution"
)

// shownFrames is how much of a stack the text has.
const shownFrames = 8

// Text tells a denial to a person, in a few lines without an end of line:
//
//	liba.so may not call execve("/bin/sh", …): denied with EPERM (server, process 4711)
//	  decided by server.policy:17; server.policy:19: add "execve" to allow
//	  on libc.so.6 execve+0xb < liba.so spawn+0x1f < server main+0x20
func (d *Denial) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s may not call %s: %s", d.Compartment, d.call(), d.outcome())
	fmt.Fprintf(&b, " (%s, process %d)", attribution.ObjectName(d.Program), d.PID)
	fmt.Fprintf(&b, "\n  decided by %s", d.Decided)
	if d.Remedy != "" {
		fmt.Fprintf(&b, "; to allow it, %s", d.Remedy)
	}
	if len(d.Stack) > 0 {
		fmt.Fprintf(&b, "\n  on %s", d.stack())
	}
	return b.String()
}

func (d *Denial) call() string {
	name := d.Call.Name
	if d.Call.ABI != d.Arch {
		name = string(d.Call.ABI) + ":" + name
	}
	return name + "(" + strings.Join(d.Args, ", ") + ")"
}

func (d *Denial) outcome() string {
	switch d.Action {
	case Denied:
		return "denied with " + d.Errno
	case Killed:
		return "the process was killed"
	default:
		return "made all the same, as this is an audit"
	}
}

func (d *Denial) stack() string {
	var b strings.Builder
	for i, f := range d.Stack {
		if i == shownFrames {
			fmt.Fprintf(&b, " < … (%d frames)", len(d.Stack))
			return b.String()
		}
		if i > 0 {
			b.WriteString(" < ")
		}
		b.WriteString(f.object())
		if f.Function != "" {
			fmt.Fprintf(&b, " %s", f.Function)
		}
		fmt.Fprintf(&b, "+%#x", f.Offset)
	}
	if !d.Whole {
		b.WriteString(" < ?")
	}
	return b.String()
}
