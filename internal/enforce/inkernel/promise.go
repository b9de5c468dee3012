package inkernel

import (
	"fmt"
	"sync"

	"bulkhead/internal/bpf"
	"bulkhead/internal/kernel"
	"bulkhead/internal/policy"
	"bulkhead/internal/syscalls"
)

// Promise says what becomes of a call that is not allowed, on this kernel.
type Promise struct {
	// Guarantee is for people, in one line.
	Guarantee string
	// Prevents: no such call takes effect, or answer asks for none to be prevented.
	Prevents bool
}

// lsm tells why there are no LSM hooks; nil: there are.
var lsm = sync.OnceValue(func() error { return kernel.Have(kernel.LSMProgram) })

// Promises returns what this backend can promise for an answer; an error, with the alternatives, where it cannot give that
// answer at all.
func Promises(answer policy.OnViolation) (Promise, error) {
	hooks := lsm()
	switch answer {
	case policy.Deny:
		if hooks != nil {
			return Promise{}, fmt.Errorf("on-violation = %q needs BPF LSM in the kernel backend: use --backend supervisor, "+
				"on-violation = %q or --audit: %w", policy.Deny, policy.Kill, hooks)
		}
		return Promise{"a call that is not allowed fails by an LSM hook before any effect; calls without a hook are killed" + stays, true}, nil
	case policy.Kill:
		if hooks != nil {
			return Promise{"a process that makes a call that is not allowed dies and sees no result, but what the call does may be done" + stays, false}, nil
		}
		return Promise{"a process that makes a call that is not allowed dies; an LSM hook denies the call before any effect" + stays, true}, nil
	}
	return Promise{"calls that are not allowed are reported and made", true}, nil
}

const stays = "; if bulkhead ends, the policy stays in force"

// chooseHooks returns the LSM hooks that deny what the policy does not allow to everyone, and the calls that they deny.
func chooseHooks(p *policy.Policy, answer policy.OnViolation) ([]string, func(syscalls.ABI, int) bool, error) {
	none := func(syscalls.ABI, int) bool { return false }
	if answer == policy.Audit {
		return nil, none, nil
	}
	if _, err := Promises(answer); err != nil {
		return nil, nil, err
	}
	if lsm() != nil {
		return nil, none, nil
	}
	has, err := bpf.KernelHooks()
	if err != nil {
		return nil, nil, err
	}
	f := newFilters(p, answer, none)
	hooks, covered := need(has, func(abi syscalls.ABI, nr int) bool {
		for _, i := range f.images {
			if i.rules.Class(abi, nr) != policy.AllowedToAll {
				return true
			}
		}
		return false
	})
	return hooks, covered, nil
}
