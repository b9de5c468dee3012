# Run by gdb: stop at each system call of the program and tell what gdb sees there, one line of JSON for each stop on
# file descriptor 3; go on when a line comes back on 4. The process is stopped meanwhile.
import gdb
import json
import os
import traceback

REGISTERS = "rax rdx rcx rbx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip orig_rax".split()

out, answers = os.fdopen(3, "w"), os.fdopen(4)
for fd in (3, 4):
    os.set_inheritable(fd, False)  # not for the program


def tell(**line):
    out.write(json.dumps(line) + "\n")
    out.flush()
    return answers.readline() == "go\n"


def number(value):
    return int(value.cast(gdb.lookup_type("unsigned long"))) & (1 << 64) - 1


def backtrace():
    frames, end = [], ""
    try:
        frame = gdb.newest_frame()
        while frame:
            # Inlined and tail-called functions have no activation of their own.
            if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME):
                frames.append({
                    "ip": frame.pc(),
                    "function": frame.name() or "",
                    "signal": frame.type() == gdb.SIGTRAMP_FRAME,
                })
            end = gdb.frame_stop_reason_string(frame.unwind_stop_reason())
            frame = frame.older()
    except gdb.error as error:
        end = str(error)
    return frames, end


inside = {}  # thread: the call that it was last seen to enter


def is_entry(thread, registers):
    """A thread stops when a call begins, with -ENOSYS as its result so far, and when it ends."""
    call = (registers[-2], registers[-1])
    if registers[0] == (1 << 64) - 38 and inside.get(thread) != call:
        inside[thread] = call
        return True
    inside.pop(thread, None)
    return False


def run(stops):
    for setting in """pagination off|confirm off|debuginfod enabled off|startup-with-shell off
        |backtrace past-main on|backtrace past-entry on|backtrace limit unlimited
        |print frame-arguments none|print thread-events off|print inferior-events off""".split("|"):
        gdb.execute("set " + setting.strip())
    gdb.execute("handle all nostop noprint pass", to_string=True)
    gdb.execute("starti", to_string=True)
    pid = gdb.selected_inferior().pid
    if not tell(pid=pid):
        return
    gdb.execute("catch syscall", to_string=True)
    while stops > 0:
        gdb.execute("continue", to_string=True)
        if gdb.selected_inferior().pid != pid:
            return  # it has ended
        thread = gdb.selected_thread().ptid[1]
        newest = gdb.newest_frame()
        registers = [number(newest.read_register(name)) for name in REGISTERS]
        if not is_entry(thread, registers):
            continue
        stops -= 1
        # The loader tells gdb of libraries late: after the first of their code has run.
        if newest.name() is None:
            gdb.execute("sharedlibrary", to_string=True)
            gdb.invalidate_cached_frames()
        frames, end = backtrace()
        if not tell(pid=pid, tid=thread, registers=registers, frames=frames, end=end):
            break
    gdb.execute("kill")


try:
    run(int(gdb.convenience_variable("stops")))
except Exception:
    tell(error=traceback.format_exc())
    raise
