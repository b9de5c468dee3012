package inkernel

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"bulkhead/internal/attribution"
	"bulkhead/internal/bpf"
	"bulkhead/internal/enforce/denial"
	"bulkhead/internal/policy"
	"bulkhead/internal/ptrace"
	"bulkhead/internal/syscalls"
)

func (s *session) report(d *denial.Denial) {
	if s.opts.Denied != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.opts.Denied(d)
	}
}

var actions = map[bpf.Answer]denial.Action{
	bpf.AnswerAudit: denial.Audited, bpf.AnswerKill: denial.Killed, bpf.AnswerDeny: denial.Denied,
}

var actionsOf = map[policy.OnViolation]denial.Action{
	policy.Audit: denial.Audited, policy.Kill: denial.Killed, policy.Deny: denial.Denied,
}

// denial makes of what the kernel part reports what is told about it.
func (s *session) denial(v *bpf.Violation) *denial.Denial {
	rules := s.rulesOf(v.Generation)
	abi, nr := abis[v.Abi], int(v.Nr)
	if abi == syscalls.X32 {
		nr |= syscalls.X32Bit
	}
	d := &denial.Denial{
		Time: v.Time, PID: int(v.Pid), TID: int(v.Tid), Action: actions[bpf.Answer(v.Answer)],
		Arch: attribution.AMD64, Call: callOf(abi, nr), Whole: bpf.WalkEnd(v.End) == bpf.WalkOutermost,
	}
	d.Args = denial.Arguments(d.Call.Name, v.Args, func(address uint64, limit int) (string, bool, error) {
		if s, whole, err := v.String(address, limit); err == nil {
			return s, whole, nil
		}
		return ptrace.ReadString(d.PID, address, limit)
	})
	d.Program, d.ProgramBuildID = s.program(v)
	i := rules.image(v.Image)
	if i == nil || bpf.ViolationKind(v.Kind) == bpf.ViolationExec {
		d.Call = callOf(syscalls.AMD64, unix.SYS_EXECVE)
		d.Args = nil
		s.explainExec(d, rules.policy, d.Program)
		return d
	}
	if d.Action == denial.Denied {
		d.Errno = unix.ErrnoName(i.rules.Errno(abi, nr))
	}
	object := ""
	for n, f := range v.Frames {
		frame := s.frame(i, f)
		if n == int(v.At) {
			object = frame.Path
		}
		d.Stack = append(d.Stack, frame)
	}
	id := i.compartment(v.Compartment)
	why := i.rules.Why(id, object, abi, nr)
	d.Compartment, d.Decided, d.Remedy = why.Compartment, why.Decided, why.Remedy
	if id == policy.Unknown && object != "" {
		d.Compartment = attribution.ObjectName(object)
	}
	return d
}

func (s *session) rulesOf(generation uint32) *ruleset {
	if rules, ok := s.old.Load(generation); ok {
		return rules.(*ruleset)
	}
	return s.rules.Load()
}

// program returns the path and build id of the program that a violation's process runs.
func (s *session) program(v *bpf.Violation) (path, buildID string) {
	if obj := s.objects.get(bpf.ObjectID(v.Program)); obj != nil {
		return obj.Path, obj.BuildID()
	}
	return programPath(int(v.Pid)), ""
}

func (s *session) frame(i *image, f bpf.Frame) denial.Frame {
	obj := s.objects.get(bpf.ObjectID(f.Object))
	if obj == nil {
		return denial.Frame{Path: attribution.Unknown, Compartment: attribution.Unknown, Offset: uint64(f.Offset)}
	}
	function, offset := obj.Symbolize(uint64(f.Offset))
	return denial.Frame{
		Path: obj.Path, BuildID: obj.BuildID(), Compartment: i.rules.Name(i.rules.Compartment(obj.Path)),
		Conduit: i.rules.Conduits().Match(obj.Path), Function: function, Offset: offset,
	}
}

func callOf(abi syscalls.ABI, nr int) attribution.Call {
	name, _ := syscalls.Name(abi, nr)
	return attribution.Call{ABI: attribution.ABI(abi.String()), NR: nr, Name: name}
}

// fromFilter begins the denial of a call that the seccomp filter handed over.
func (s *session) fromFilter(n *notification, rules *ruleset) *denial.Denial {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	d := &denial.Denial{
		Time: uint64(now.Nano()), PID: threadGroup(int(n.pid)), TID: int(n.pid), Action: actionsOf[rules.answer],
		Program: programPath(int(n.pid)), Arch: attribution.AMD64, Call: callOf(n.abi(), int(n.call.nr)),
	}
	d.Args = denial.Arguments(d.Call.Name, n.call.args, n.memory)
	return d
}

// deniedToAll is a call that no compartment may make.
func (s *session) deniedToAll(n *notification, rules *ruleset) *denial.Denial {
	d := s.fromFilter(n, rules)
	i, listed := rules.imageOf(d.Program)
	if !listed {
		i = rules.filters.images[0]
	}
	if d.Action == denial.Denied {
		d.Errno = unix.ErrnoName(i.rules.Errno(n.abi(), int(n.call.nr)))
	}
	why := i.rules.Why(policy.Unknown, "", n.abi(), int(n.call.nr))
	d.Compartment, d.Decided, d.Remedy = why.Compartment, why.Decided, why.Remedy
	return d
}

// deniedExec is the execution of a program that the policy does not list.
func (s *session) deniedExec(n *notification, rules *ruleset, path string) *denial.Denial {
	d := s.fromFilter(n, rules)
	if d.Action == denial.Denied {
		d.Errno = unix.ErrnoName(unix.EPERM)
	}
	s.explainExec(d, rules.policy, path)
	return d
}

func (s *session) explainExec(d *denial.Denial, p *policy.Policy, path string) {
	d.Compartment = attribution.ObjectName(d.Program)
	d.Decided = p.File + `: on-exec = "deny"`
	d.Remedy = "list " + path + " as a [[program]]"
}

// threadGroup returns the process that a thread belongs to.
func threadGroup(tid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return tid
	}
	_, rest, _ := bytes.Cut(status, []byte("\nTgid:"))
	pid := tid
	fmt.Sscan(string(rest), &pid)
	return pid
}
