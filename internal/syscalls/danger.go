package syscalls

import (
	"cmp"
	"sync"
)

// The danger classes. Their values are the weights of the privilege metric: a
// compartment's privilege is the sum over its distinct system calls.
const (
	Harmless   = 1 // asks, waits, or works on what was opened before
	Disruptive = 2 // denial of service, or subversion of the process
	Critical   = 3 // can take full control of the system
)

// Danger returns the danger class of a system call, 1 to 3, or 0 for a name
// that is in none of the tables.
func Danger(syscall string) int { return dangers()[syscall].class }

// Weight is a system call's part of a privilege: its danger class, and Critical
// for a name that is in none of the tables, which may do anything.
func Weight(syscall string) int { return cmp.Or(Danger(syscall), Critical) }

// DangerReason says why a system call has its danger class.
func DangerReason(syscall string) string { return dangers()[syscall].reason }

type danger struct {
	class  int
	reason string
}

var dangers = sync.OnceValue(func() map[string]danger {
	byName := map[string]danger{}
	for _, s := range mustParse("danger.txt", dangerText) {
		d := danger{class: int(s.key[0] - '0'), reason: s.rest}
		for _, name := range s.words {
			byName[name] = d
		}
	}
	return byName
})
