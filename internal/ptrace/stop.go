package ptrace

import (
	"slices"

	"golang.org/x/sys/unix"

	"bulkhead/internal/syscalls"
)

// noSystemCall in rax at the entry of a call: the kernel has put it there (ENOSYS).
const noSystemCall = ^uint64(unix.ENOSYS) + 1

// filtered handles a call that the filter traces. Its data is the ABI.
func (t *Tracer) filtered(th *Thread) {
	th.read = false
	data, err := t.readCall(th)
	if err != nil {
		t.fail("reading the call", th, err)
		return
	}
	t.follow.to(th)
	if data > uint64(syscalls.X32) {
		// A filter of the target's own says so, and alone that would fail the call.
		t.skip(th, noSystemCall)
		return
	}
	t.entered(th)
}

// readCall finds out which call a thread that the filter stopped makes, and the filter's data.
func (t *Tracer) readCall(th *Thread) (data uint64, err error) {
	if !t.withoutInfo {
		var info syscallInfo
		err := getSyscallInfo(th.TID, &info)
		if err == nil {
			th.Call, data = info.call()
			th.SP = info.sp
			return data, nil
		}
		if err != unix.EIO {
			return 0, err
		}
		t.withoutInfo = true
	}
	if data, err = eventMessage(th.TID); err != nil {
		return 0, err
	}
	regs, err := th.Registers()
	if err != nil {
		return 0, err
	}
	th.Call, th.SP = callOf(syscalls.ABI(data), regs), regs.Rsp
	return data, nil
}

// syscall handles the begin or the end of a call.
func (t *Tracer) syscall(th *Thread) {
	th.read = false
	regs, err := th.Registers()
	if err != nil {
		t.fail("reading the call", th, err)
		return
	}
	t.follow.to(th)
	if th.state != outside {
		t.returned(th, regs.Rax)
		return
	}
	// The child of a fork comes out of a call that it did not enter.
	if regs.Rax != noSystemCall {
		t.resume(th, 0)
		return
	}
	th.Call, th.SP = callOf(abiOf(th.TID, regs), regs), regs.Rsp
	t.entered(th)
}

// abiOf finds the ABI of a call without a filter's word: by the mode of the processor, the number, and the instruction.
func abiOf(tid int, regs *Registers) syscalls.ABI {
	if regs.Cs != codeSegment64 {
		return syscalls.I386
	}
	var code [2]byte
	if n, _ := readMemory(tid, regs.Rip-2, code[:]); n == 2 && code == [2]byte{0xcd, 0x80} {
		return syscalls.I386
	}
	if uint32(regs.Orig_rax) >= syscalls.X32Bit && int32(regs.Orig_rax) >= 0 {
		return syscalls.X32
	}
	return syscalls.AMD64
}

// entered asks the handler about a call, when the mappings are sure to be those that the call was made under.
func (t *Tracer) entered(th *Thread) {
	space := th.Process.Space
	if space.changing != nil {
		space.waiting = append(space.waiting, th)
		return
	}
	if space.changedSince(th.epoch, th.Call.IP-1) || space.changedSince(th.epoch, th.Call.IP-2) {
		t.again(th)
		return
	}
	t.memory.reset(th.TID)
	th.Memory = &t.memory
	verdict := t.opts.Handler.Call(th)
	switch verdict.kind {
	case failCall:
		t.skip(th, -uint64(verdict.errno))
		return
	case killProcess:
		t.kill(th)
		return
	}
	if t.opts.Filter == nil {
		th.state = inside
	}
	if changesMappings(&th.Call) || Executes(th.Call.ABI, int(th.Call.NR)) {
		th.state = changing
		space.changing = th
	}
	t.resume(th, 0)
}

// returned handles the end of a call.
func (t *Tracer) returned(th *Thread, result uint64) {
	if th.state == changing {
		t.changed(th.Process.Space, extentsOf(&th.Call, result)...)
	}
	th.state = outside
	t.resume(th, 0)
}

// changed takes in a change of the mappings, and what has waited for it.
func (t *Tracer) changed(space *Space, extents ...extent) {
	space.changing = nil
	space.finished(extents...)
	waiting := space.waiting
	space.waiting = nil
	for _, th := range waiting {
		t.entered(th)
	}
}

// skip ends a call before it happens.
func (t *Tracer) skip(th *Thread, result uint64) {
	t.end(th, func(r *Registers) { r.Rax = result })
}

// again lets a thread make its call once more: it goes back to the instruction, which is two bytes long in every ABI.
func (t *Tracer) again(th *Thread) {
	t.end(th, func(r *Registers) { r.Rip, r.Rax = r.Rip-2, r.Orig_rax })
}

// end ends a call before it happens, with other registers. A thread that cannot be made to does not run on: the call would
// happen.
func (t *Tracer) end(th *Thread, change func(*Registers)) {
	regs, err := th.Registers()
	if err == nil {
		change(regs)
		regs.Orig_rax = ^uint64(0)
		err = setRegisters(th.TID, regs)
	}
	if err != nil {
		t.fail("ending a call", th, err)
		t.kill(th)
		return
	}
	if t.opts.Filter == nil {
		th.state = inside
	}
	t.resume(th, 0)
}

func (t *Tracer) kill(th *Thread) {
	_ = unix.Kill(th.Process.PID, unix.SIGKILL)
}

// exec handles a process that has a new program image: other threads are gone, and the one that made the call has the
// process's number now.
func (t *Tracer) exec(th *Thread) {
	former, err := eventMessage(th.TID)
	if err != nil {
		t.fail("PTRACE_GETEVENTMSG", th, err)
		return
	}
	p := th.Process
	// Nobody of the process is left, not even those that waited for this call to end.
	space := p.Space
	space.waiting = slices.DeleteFunc(space.waiting, func(w *Thread) bool { return w.Process == p })
	if space.changing != nil && space.changing.Process == p {
		t.changed(space)
	}
	if caller := t.threads[int(former)]; caller != nil && caller != th {
		t.forget(caller)
	}
	p.Space = newSpace()
	th.state = outside
	if t.opts.Filter == nil {
		th.state = inside // the end of the call stops
	}
	if !t.opts.Handler.Exec(p) {
		t.kill(th)
		return
	}
	t.resume(th, 0)
}

// forked handles a thread that has made another one, or a process.
func (t *Tracer) forked(th *Thread) {
	message, err := eventMessage(th.TID)
	if err != nil {
		t.fail("PTRACE_GETEVENTMSG", th, err)
		return
	}
	child := t.threads[int(message)]
	if child == nil {
		child = &Thread{TID: int(message)}
		t.threads[child.TID] = child
	}
	if !child.awaited {
		t.adopt(child, th.Process)
	}
	t.resume(th, 0)
}

// adopt gives a new thread its process. If it has stopped already, it runs.
func (t *Tracer) adopt(child *Thread, parent *Process) {
	child.awaited = true
	child.epoch = parent.Space.epoch
	if unix.Tgkill(parent.PID, child.TID, 0) == nil {
		child.Process = parent
		parent.threads++
	} else {
		child.Process = &Process{PID: child.TID, Space: parent.Space, threads: 1}
		child.Process.Space = t.spaceOf(child.TID, parent)
		t.opts.Handler.Fork(parent, child.Process)
	}
	if child.status != 0 {
		t.stopped(child, child.status)
	}
}

// spaceOf returns the address space of a new process: the one that it shares, mostly with its parent, or a new one.
func (t *Tracer) spaceOf(pid int, parent *Process) *Space {
	if shared, err := sharesMemory(parent.PID, pid); err == nil {
		if shared {
			return parent.Space
		}
		return newSpace()
	}
	for _, other := range t.threads { // the parent has gone
		if other.Process == nil || other.TID == pid {
			continue
		}
		if shared, err := sharesMemory(other.TID, pid); err == nil && shared {
			return other.Process.Space
		}
	}
	return newSpace()
}

// adoptOrphans takes the new threads whose parent was killed before it told of them.
func (t *Tracer) adoptOrphans(dead *Process) {
	for _, th := range t.threads {
		if th.awaited || th.status == 0 {
			continue
		}
		t.adopt(th, dead)
		if th.Process.PID == th.TID && !t.opts.Handler.Exec(th.Process) {
			t.kill(th)
		}
	}
}

// born handles the first stop of a thread whose parent has not told yet: it waits.
func (t *Tracer) born(tid int, th *Thread, status unix.WaitStatus) {
	if th == nil {
		th = &Thread{TID: tid}
		t.threads[tid] = th
	}
	th.status = status
}
