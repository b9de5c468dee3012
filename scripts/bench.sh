#!/bin/bash
# What tracing costs, as ratios. Each pair is measured in turn (A B A B ...), the figure is the median of the ratios:
# single times of a busy or virtual machine say little.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/bench/measure.sh

go build -o "$work/listener" ./scripts/bench/listener
loop_traced() { "$bulkhead" trace --out "$work/doc.json" -- "$work/getppid" 1000000; }
loop_chains() { "$bulkhead" trace --chains --out "$work/doc.json" -- "$work/getppid" 1000000; }
loop_strace() { strace -f -o /dev/null "$work/getppid" 20000; }
# The loop as a bystander, while a trace of something else runs.
loop_beside() {
	local tracer
	"$bulkhead" trace --out "$work/doc.json" -- sleep 2 &
	tracer=$!
	sleep 0.7
	loop
	wait "$tracer"
}
# The same while a program listens to system calls that does nothing at all.
beside_listener() {
	local listener
	mkfifo "$work/open"
	"$work/listener" "$1" <"$work/open" >"$work/listening" &
	listener=$!
	exec 3>"$work/open"
	until grep -q listening "$work/listening"; do sleep 0.05; done
	loop
	exec 3>&-
	wait "$listener"
	rm "$work/open" "$work/listening"
}
loop_beside_tp_btf() { beside_listener tp_btf; }
loop_beside_raw_tp() { beside_listener raw_tp; }

redis() { redis_rate 100000; }
redis_traced() { redis_rate 100000 "$bulkhead" trace --out "$work/doc.json" --; }
redis_chains() { redis_rate 100000 "$bulkhead" trace --chains --out "$work/doc.json" --; }
redis_strace() { redis_rate 2000 strace -f -o /dev/null; }

# start: milliseconds from the command to the first call of redis-server, by the stream's own clock.
start() {
	python3 - "$bulkhead" "$work/stream" <<-'EOF'
	import json, subprocess, sys, time
	begin = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
	subprocess.run([sys.argv[1], "trace", "--stream", "--out", sys.argv[2], "--", "redis-server", "--version"], stdout=subprocess.DEVNULL)
	print((json.loads(open(sys.argv[2]).readline())["time"] - begin) / 1e6)
	EOF
}
start_cold() { XDG_CACHE_HOME=$(mktemp -d -p "$work") start; }
start_warm() { XDG_CACHE_HOME=$work/cache start; }

echo "medians of $rounds rounds (smallest to largest)"
compare "getppid loop, traced / untraced" loop_traced loop
compare "getppid loop, traced with --chains / untraced" loop_chains loop
compare "getppid loop, beside a trace of another process / untraced" loop_beside loop
compare "getppid loop, beside an empty BPF program (tp_btf) / untraced" loop_beside_tp_btf loop
compare "getppid loop, beside an empty BPF program (raw_tp) / untraced" loop_beside_raw_tp loop
compare "getppid loop, strace -f / untraced" loop_strace loop
compare "Redis requests per second on one processor, traced / untraced" redis_traced redis
compare "Redis requests per second on one processor, --chains / untraced" redis_chains redis
compare "Redis requests per second on one processor, strace -f / untraced" redis_strace redis
start_warm >/dev/null
figure "ms from the command to redis-server's first call, nothing cached" start_cold
figure "ms from the command to redis-server's first call, rows cached" start_warm

# The tracer beside clang, which maps more than 100 MB of code.
memory() {
	XDG_CACHE_HOME=$(mktemp -d -p "$work") "$bulkhead" trace --out "$work/doc.json" -- sh -c \
		'clang++-19 -c -o /dev/null scripts/bench/compiled.cpp; sed -n "s/^VmHWM:[[:space:]]*\([0-9]*\) kB/\1/p" /proc/$PPID/status' |
		awk '{print $1/1024}'
}
figure "MB resident at most, beside clang, nothing cached" memory
