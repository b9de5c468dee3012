package supervisor

import (
	"golang.org/x/sys/unix"

	"bulkhead/internal/attribution"
	"bulkhead/internal/enforce/denial"
	"bulkhead/internal/policy"
	"bulkhead/internal/ptrace"
	"bulkhead/internal/syscalls"
)

// violation is a call that may not be made: by a compartment; or to execute an image; or at all, by a guard.
type violation struct {
	id    policy.ID
	frame int // of the compartment, -1: none
	image string
	guard *guard
	errno unix.Errno
}

// violated reports a violation and gives the answer.
func (s *supervisor) violated(t *ptrace.Thread, i *image, v *violation) ptrace.Verdict {
	if s.opts.Denied != nil {
		s.opts.Denied(s.denial(t, i, v))
	}
	switch s.answer {
	case policy.Audit:
		return ptrace.GoOn()
	case policy.Kill:
		return ptrace.Kill()
	}
	return ptrace.Fail(v.errno)
}

var actions = map[policy.OnViolation]denial.Action{
	policy.Deny: denial.Denied, policy.Kill: denial.Killed, policy.Audit: denial.Audited,
}

func (s *supervisor) denial(t *ptrace.Thread, i *image, v *violation) *denial.Denial {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	d := &denial.Denial{
		Time: uint64(now.Nano()), PID: t.Process.PID, TID: t.TID, Action: actions[s.answer],
		Program: i.path, ProgramBuildID: i.buildID, Arch: attribution.AMD64,
		Call: callOf(t),
	}
	d.Args = denial.Arguments(d.Call.Name, t.Call.Args, t.Memory.ReadString)
	if d.Action == denial.Denied {
		d.Errno = unix.ErrnoName(v.errno)
	}
	w := s.on(t, i)
	d.Whole, _ = w.walk(true)
	for _, f := range w.frames {
		function, at := f.code.Symbolize(f.offset)
		d.Stack = append(d.Stack, denial.Frame{
			Path: f.code.Path, BuildID: f.code.BuildID(), Compartment: i.rules.Name(f.charge.IDs[0]), Conduit: f.charge.Conduit,
			Function: function, Offset: at,
		})
	}
	s.explain(d, t, i, v)
	return d
}

// explain says who may not make the call and why.
func (s *supervisor) explain(d *denial.Denial, t *ptrace.Thread, i *image, v *violation) {
	object := ""
	if v.frame >= 0 && v.frame < len(d.Stack) {
		object = d.Stack[v.frame].Path
	}
	why := i.rules.Why(v.id, object, t.Call.ABI, int(t.Call.NR))
	d.Compartment, d.Decided, d.Remedy = why.Compartment, why.Decided, why.Remedy
	switch {
	case v.guard != nil:
		d.Compartment, d.Decided, d.Remedy = attribution.ObjectName(i.path), v.guard.reason, v.guard.remedy
	case v.image != "":
		d.Compartment = attribution.ObjectName(i.path)
		d.Decided = s.opts.Policy.File + `: on-exec = "deny"`
		d.Remedy = "list " + v.image + " as a [[program]]"
		if _, listed := s.listed[v.image]; listed {
			d.Decided, d.Remedy = "its file, which has changed since the policy came into force", "start the command again"
		}
	case v.id == policy.Unknown && object != "":
		d.Compartment = attribution.ObjectName(object)
	}
}

func callOf(t *ptrace.Thread) attribution.Call {
	nr := int(int32(t.Call.NR))
	name, ok := syscalls.Name(t.Call.ABI, nr)
	if !ok {
		name = ""
	}
	return attribution.Call{ABI: attribution.ABI(t.Call.ABI.String()), NR: nr, Name: name}
}
