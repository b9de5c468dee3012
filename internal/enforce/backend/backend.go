package backend

import (
	"bulkhead/internal/cfi"
	"bulkhead/internal/enforce/denial"
	"bulkhead/internal/filecache"
	"bulkhead/internal/policy"
)

// Options say what to enforce.
type Options struct {
	Policy *policy.Policy
	// Audit reports what the policy does not allow and lets it happen, whatever the policy's on-violation says.
	Audit bool
	// Denied gets every denial as it happens, from one goroutine at a time.
	Denied func(*denial.Denial)
	// Cache keeps unwind rows between runs. It may be nil.
	Cache *cfi.Cache
	// Start keeps what loading BPF programs computes between runs. It may be nil.
	Start *filecache.Cache
	// Log gets notes for the user, one line each.
	Log func(format string, args ...any)
}

// OnViolation returns what happens to a call that is not allowed.
func (o *Options) OnViolation() policy.OnViolation {
	if o.Audit {
		return policy.Audit
	}
	return o.Policy.OnViolation
}
