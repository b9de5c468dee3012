package inkernel

import (
	"fmt"
	"os"
	"strings"

	"bulkhead/internal/bpf"
	"bulkhead/internal/filecache"
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

// hasHooks tells whether the kernel runs LSM programs of this user. That does not change before the next boot, and finding
// it out takes longer than half of a start: it is kept. start may be nil.
func hasHooks(start *filecache.Cache) bool {
	key := hooksKey()
	if start == nil || key == "" {
		return kernel.Have(kernel.LSMProgram) == nil
	}
	const yes, no = "yes", "no"
	switch string(start.Get(key)) {
	case yes:
		return true
	case no:
		return false
	}
	if kernel.Have(kernel.LSMProgram) == nil {
		_ = start.Put(key, []byte(yes)) // it only saves time
		return true
	}
	_ = start.Put(key, []byte(no))
	return false
}

// hooksKey names this boot of the kernel and what this process may do; empty: unknown.
func hooksKey() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	status, err2 := os.ReadFile("/proc/self/status")
	if err != nil || err2 != nil {
		return ""
	}
	_, rights, _ := strings.Cut(string(status), "\nCapEff:")
	rights, _, _ = strings.Cut(rights, "\n")
	return "hooks-" + strings.TrimSpace(string(boot)) + "-" + strings.TrimSpace(rights)
}

// Promises returns what this backend can promise for an answer; an error, with the alternatives, where it cannot give that
// answer at all. start, which may be nil, keeps what is found out about the kernel.
func Promises(answer policy.OnViolation, start *filecache.Cache) (Promise, error) {
	hooks := hasHooks(start)
	switch answer {
	case policy.Deny:
		if !hooks {
			return Promise{}, fmt.Errorf("on-violation = %q needs BPF LSM in the kernel backend: use --backend supervisor, "+
				"on-violation = %q or --audit: %w", policy.Deny, policy.Kill, kernel.Have(kernel.LSMProgram))
		}
		return Promise{"a call that is not allowed fails by an LSM hook before any effect; calls without a hook are killed" + stays, true}, nil
	case policy.Kill:
		if !hooks {
			return Promise{"a process that makes a call that is not allowed dies and sees no result, but what the call does may be done" + stays, false}, nil
		}
		return Promise{"a process that makes a call that is not allowed dies; an LSM hook denies the call before any effect" + stays, true}, nil
	}
	return Promise{"calls that are not allowed are reported and made", true}, nil
}

const stays = "; if bulkhead ends, the policy stays in force"

// chooseHooks returns the LSM hooks that deny what the policy does not allow to everyone, and the calls that they deny.
func chooseHooks(p *policy.Policy, answer policy.OnViolation, start *filecache.Cache) ([]string, func(syscalls.ABI, int) bool, error) {
	none := func(syscalls.ABI, int) bool { return false }
	if answer == policy.Audit {
		return nil, none, nil
	}
	if _, err := Promises(answer, start); err != nil {
		return nil, nil, err
	}
	if !hasHooks(start) {
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
