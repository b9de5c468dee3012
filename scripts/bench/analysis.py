"""Times bulkhead analyze: python3 analysis.py BULKHEAD ROUNDS. Run by scripts/bench-analysis.sh."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

BULKHEAD, ROUNDS = sys.argv[1], int(sys.argv[2])
WARM = ["redis-server", "nginx", "python3", "gcc", "curl", "git", "sqlite3", "gdb", "node", "qemu-system-x86_64", "clang-19", "perl"]
# callander ÷ objdump -d of the same objects, recorded on another machine.
RECORDED = {"redis-server": "callander there: 2.3 s, 307 MB", "python3": "callander there: 5.8 s, 927 MB"}

work = tempfile.TemporaryDirectory()
cache = os.path.join(work.name, "cache")


def run(*command, **env):
    """Runs a command without output: seconds, and MB resident at most."""
    begin = time.monotonic()
    pid = os.posix_spawn(
        command[0], command, {**os.environ, **env},
        file_actions=[(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)],
    )
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 1):
        sys.exit(f"bench: {' '.join(command)}: status {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - begin, usage.ru_maxrss / 1024


def say(what, figures, form="{:.2f}"):
    figures = sorted(figures)
    low, middle, high = (form.format(x) for x in (figures[0], statistics.median(figures), figures[-1]))
    print(f"{what:<68} {middle}  ({low} to {high})", flush=True)


def analyze(path, *flags, fresh=False):
    return run(BULKHEAD, "analyze", *flags, path, XDG_CACHE_HOME=tempfile.mkdtemp(dir=work.name) if fresh else cache)


def objects(path):
    doc = os.path.join(work.name, "doc.json")
    run(BULKHEAD, "analyze", "--no-cache", "-o", "json", "--out", doc, path)
    with open(doc) as f:
        return [o["path"] for o in json.load(f)["programs"][0]["objects"]]


def cold(name):
    """Cold runs beside objdump and, where it is there, callander, in turn."""
    path = shutil.which(name)
    if path is None:
        return
    files = objects(path)
    objdump, callander = shutil.which("objdump"), shutil.which("callander")
    ratios, peers = [], []
    for _ in range(ROUNDS):
        ours = analyze(path, fresh=True)[0]
        base = sum(run(objdump, "-d", f)[0] for f in files)
        ratios.append(ours / base)
        if callander:
            permit = [callander, "--show-permitted", "--block-exec", "--ignore-dlopen", path, "--version"]
            peers.append(run(*permit)[0] / base)
    say(f"{name} cold / objdump -d of its {len(files)} objects", ratios)
    if peers:
        say(f"{name}, callander / objdump -d", peers)
    else:
        print(f"  ({RECORDED[name]}; callander is not in PATH)")


def hello():
    source = os.path.join(work.name, "hello.go")
    with open(source, "w") as f:
        f.write('package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("hello") }\n')
    program = os.path.join(work.name, "hello")
    subprocess.run(["go", "build", "-o", program, source], check=True, env={**os.environ, "GO111MODULE": "off", "CGO_ENABLED": "0"})
    say("Go hello cold, seconds", [analyze(program, fresh=True)[0] for _ in range(ROUNDS)], "{:.3f}")


def warm(name):
    path = shutil.which(name)
    if path is None:
        return
    analyze(path)
    say(f"{name} warm, seconds", [analyze(path)[0] for _ in range(ROUNDS)], "{:.3f}")
    linked = []
    for _ in range(ROUNDS):
        for entry in os.scandir(os.path.join(cache, "bulkhead", "summaries")):
            if entry.name.endswith(".document"):
                os.unlink(entry.path)
        linked.append(analyze(path)[0])
    say(f"{name} linked anew, seconds", linked, "{:.3f}")


print(f"medians of {ROUNDS} rounds (smallest to largest)")
cold("redis-server")
cold("python3")
hello()
for program in WARM:
    warm(program)
python = shutil.which("python3.11") or shutil.which("python3")
say("MB resident at most, python3 cold", [analyze(python, fresh=True)[1] for _ in range(ROUNDS)], "{:.0f}")
