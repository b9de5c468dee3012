package inkernel

import (
	"errors"
	"fmt"
	"sync"

	"bulkhead/internal/bpf"
	"bulkhead/internal/enforce/backend"
	"bulkhead/internal/policy"
	"bulkhead/internal/syscalls"
)

// ruleset is a policy in the kernel: its filters, and which code belongs to which of its compartments. Safe for
// concurrent use.
type ruleset struct {
	policy  *policy.Policy
	answer  policy.OnViolation
	kernel  *bpf.Policy
	filters *filters

	mu    sync.Mutex
	bound map[bpf.ObjectID]bool
	named map[bpf.ObjectID]bool
}

func newRuleset(p *policy.Policy, answer policy.OnViolation, covered func(syscalls.ABI, int) bool) *ruleset {
	return &ruleset{
		policy: p, answer: answer, filters: newFilters(p, answer, covered),
		bound: map[bpf.ObjectID]bool{}, named: map[bpf.ObjectID]bool{},
	}
}

// load gives the filters to the kernel. They are not in force yet.
func (r *ruleset) load(enforcer *bpf.Enforcer) (err error) {
	r.kernel, err = enforcer.NewPolicy(r.filters.rows)
	return err
}

// bind tells the kernel the compartment that an object has under each image. Until then its code is unknown.
func (r *ruleset) bind(obj *object) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bound[obj.id] {
		return nil
	}
	var errs []error
	for _, i := range r.filters.images {
		for number, a := range backend.Charges(obj.regions, i.rules, obj.Path) {
			var flags bpf.BindingFlags
			if a.Conduit {
				flags |= bpf.BindConduit
			}
			if obj.calls {
				flags |= bpf.BindCalls
			}
			row := i.compartmentRow(a.IDs[0])
			errs = append(errs, r.kernel.Bind(i.row, obj.id, uint16(number), row, flags))
		}
	}
	err := errors.Join(errs...)
	r.bound[obj.id] = err == nil
	return err
}

// name tells the kernel which image governs a program. It returns false for one that the policy does not list.
func (r *ruleset) name(program *object) (bool, error) {
	image, listed := r.imageOf(program.Path)
	if !listed {
		return false, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.named[program.id] {
		return true, nil
	}
	if err := r.kernel.Name(program.id, image.row); err != nil {
		return true, fmt.Errorf("%s: %w", program.Path, err)
	}
	r.named[program.id] = true
	return true, nil
}

// imageOf returns the image that governs the program at a path.
func (r *ruleset) imageOf(path string) (*image, bool) {
	rules, listed := r.policy.Rules(path)
	if !listed {
		return nil, false
	}
	for _, i := range r.filters.images {
		if i.rules.Program == rules.Program {
			return i, true
		}
	}
	return nil, false
}

// image returns the image with a row.
func (r *ruleset) image(row uint32) *image {
	for _, i := range r.filters.images {
		if i.row == row {
			return i
		}
	}
	return nil
}
