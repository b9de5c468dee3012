package inkernel

import (
	"bulkhead/internal/bpf"
	"bulkhead/internal/policy"
	"bulkhead/internal/syscalls"
)

// image is a program image of a policy as the kernel has it: its filters are the rows from row on, first those that
// package bpf names, then one for each compartment.
type image struct {
	rules *policy.Rules
	row   uint32
}

// compartmentRow is the row of a compartment's filter.
func (i *image) compartmentRow(id policy.ID) uint32 { return i.row + bpf.RowUnknown + uint32(id) }

// compartment is the inverse.
func (i *image) compartment(row uint32) policy.ID {
	if row < i.row+bpf.RowUnknown || row >= i.row+bpf.RowUnknown+uint32(i.rules.Len()) {
		return policy.Unknown
	}
	return policy.ID(row - i.row - bpf.RowUnknown)
}

// filters are a policy's images and all their rows. The first rows are for programs that the policy does not list.
type filters struct {
	images []*image
	rows   []bpf.Filter
}

var answers = map[policy.OnViolation]bpf.Answer{
	policy.Audit: bpf.AnswerAudit, policy.Kill: bpf.AnswerKill, policy.Deny: bpf.AnswerDeny,
}

// newFilters compiles a policy. covered tells which calls a hook denies.
func newFilters(p *policy.Policy, answer policy.OnViolation, covered func(syscalls.ABI, int) bool) *filters {
	f := &filters{rows: make([]bpf.Filter, bpf.Rows)}
	unlisted := &f.rows[bpf.RowAll]
	unlisted.Answer = uint32(answers[answer])
	unlisted.OnExec = uint32(bpf.ExecDeny)
	if p.OnExec == policy.InheritExec {
		unlisted.OnExec = uint32(bpf.ExecInherit)
	}
	if answer == policy.Audit {
		allow(unlisted, func(syscalls.ABI, int) bool { return true }) // what it executes is reported once
	}
	for i := range p.Programs {
		if rules, listed := p.Rules(p.Programs[i].Path); listed {
			f.add(rules, answer, covered)
		}
	}
	return f
}

func (f *filters) add(rules *policy.Rules, answer policy.OnViolation, covered func(syscalls.ABI, int) bool) {
	i := &image{rules, uint32(len(f.rows))}
	f.images = append(f.images, i)
	rows := make([]bpf.Filter, int(bpf.RowUnknown)+rules.Len())
	all := &rows[bpf.RowAll]
	all.Answer = uint32(answers[answer])
	if rules.Check == policy.Chain {
		all.Chain = 1
	}
	allow(all, func(abi syscalls.ABI, nr int) bool { return rules.Class(abi, nr) == policy.AllowedToAll })
	allow(&rows[bpf.RowCovered], covered)
	for id := range policy.ID(rules.Len()) {
		allow(&rows[bpf.RowUnknown+uint32(id)], func(abi syscalls.ABI, nr int) bool { return rules.Allows(id, abi, nr) })
	}
	f.rows = append(f.rows, rows...)
}

// abis are those of a process of amd64, at the indexes that they have in a filter (enum abi in tasks.h).
var abis = [...]syscalls.ABI{syscalls.AMD64, syscalls.I386, syscalls.X32}

// allow sets the bits of all calls that may is true for.
func allow(f *bpf.Filter, may func(abi syscalls.ABI, nr int) bool) {
	for a, abi := range abis {
		for word := range f.Calls[a] {
			for bit := range 64 {
				if may(abi, number(abi, word*64+bit)) {
					f.Calls[a][word] |= 1 << bit
				}
			}
		}
	}
}

// number is a call's number as the program passes it.
func number(abi syscalls.ABI, index int) int {
	if abi == syscalls.X32 {
		return index | syscalls.X32Bit
	}
	return index
}
