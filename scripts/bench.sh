#!/bin/bash
# What tracing costs, as ratios. Each pair is measured in turn (A B A B ...), the figure is the median of the ratios:
# single times of a busy or virtual machine say little.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${ROUNDS:-7}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bulkhead=$PWD/bulkhead
port=${PORT:-16391}

# median FILE: the middle of the numbers in it, then the smallest and the largest.
median() { sort -n "$1" | awk '{v[NR]=$1} END {printf "%.2f  (%.2f to %.2f)", v[int((NR+1)/2)], v[1], v[NR]}'; }
# ratio A B
ratio() { awk -v a="$1" -v b="$2" 'BEGIN {print a/b}'; }
# compare NAME COMMAND_A COMMAND_B: the ratio of what the two print.
compare() {
	local i a b
	: >"$work/ratios"
	for ((i = 0; i < rounds; i++)); do
		a=$($2)
		b=$($3)
		ratio "$a" "$b" >>"$work/ratios"
	done
	printf '%-68s %s\n' "$1" "$(median "$work/ratios")"
}

gcc -O2 -o "$work/getppid" scripts/bench/getppid.c
go build -o "$work/listener" ./scripts/bench/listener
loop() { "$work/getppid" 1000000; }
loop_traced() { "$bulkhead" trace --out "$work/doc.json" -- "$work/getppid" 1000000; }
loop_chains() { "$bulkhead" trace --chains --out "$work/doc.json" -- "$work/getppid" 1000000; }
loop_strace() { strace -f -o /dev/null "$work/getppid" 20000; }
# The loop under a policy that allows getppid to everybody, and to the program alone, so that each call is supervised.
loop_policy() { # BASELINE COMPARTMENT
	cat >"$work/loop.policy" <<-EOF
	schema = "bulkhead.policy/v1"
	[baseline]
	allow = ["write", "read", "close", "fstat", "newfstatat", "mmap", "munmap", "mprotect", "brk", "pread64", "access", "openat",
		"arch_prctl", "set_tid_address", "set_robust_list", "rseq", "prlimit64", "getrandom"$1]
	[[program]]
	path = "$work/getppid"
	[[program.compartment]]
	name = "getppid"
	allow = [$2]
	EOF
}
loop_supervised() { # CALLS
	"$bulkhead" run --backend supervisor --policy "$work/loop.policy" -- "$work/getppid" "$1" 2>/dev/null
}
loop_allowed() { loop_policy ', "getppid"' ''; loop_supervised 1000000; }
loop_conditional() { loop_policy '' '"getppid"'; loop_supervised 50000; }
loop_strace_one() { strace -f -o /dev/null -e trace=getppid "$work/getppid" 20000; }
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

# redis_rate WRAPPER...: requests per second, server and client on one processor.
redis_rate() {
	local server tries=0
	taskset -c 0 "$@" redis-server --port "$port" --bind 127.0.0.1 --save "" --loglevel warning >/dev/null 2>&1 &
	server=$!
	until redis-cli -p "$port" ping >/dev/null 2>&1; do
		tries=$((tries + 1))
		[ "$tries" -lt 200 ] || { echo "bench: redis-server did not start on port $port" >&2; exit 1; }
		sleep 0.05
	done
	taskset -c 0 redis-benchmark -p "$port" -n "$requests" -c 20 -t get -q | tr '\r' '\n' |
		sed -n 's/^GET: \([0-9.]*\) requests per second.*/\1/p' | tail -n 1
	redis-cli -p "$port" shutdown nosave >/dev/null 2>&1 || true
	wait "$server"
}
redis() { requests=100000 redis_rate; }
redis_traced() { requests=100000 redis_rate "$bulkhead" trace --out "$work/doc.json" --; }
redis_chains() { requests=100000 redis_rate "$bulkhead" trace --chains --out "$work/doc.json" --; }
redis_strace() { requests=2000 redis_rate strace -f -o /dev/null; }

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
figure() {
	local i
	: >"$work/figures"
	for ((i = 0; i < rounds; i++)); do $2 >>"$work/figures"; done
	printf '%-68s %s\n' "$1" "$(median "$work/figures")"
}

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
compare "getppid loop, allowed to all by the supervisor / unfiltered" loop_allowed loop
compare "getppid loop, each call supervised / under strace -e trace=getppid" loop_conditional loop_strace_one
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
