#!/bin/bash
# What enforcing costs, as ratios; each line names its limit. BACKENDS="kernel supervisor" picks what is measured.
# A run in which something is denied measures nothing: it ends the benchmark.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/bench/measure.sh

gcc -O2 -o "$work/filtered" scripts/bench/filtered.c

# governed POLICY WRAPPED...: run a command under a policy with $backend.
governed() {
	local policy=$1
	shift
	"$bulkhead" run --backend "$backend" --policy "$policy" --denials "$work/denials" -- "$@"
}
nothing_denied() {
	[ ! -s "$work/denials" ] || { echo "bench: denied under $backend:" >&2; cat "$work/denials" >&2; exit 1; }
}

# loop_policy FILE BASELINE COMPARTMENT: for the getppid loop, which is allowed to all, or to the program alone.
loop_policy() {
	cat >"$1" <<-EOF
	schema = "bulkhead.policy/v1"
	on-violation = "kill"
	[baseline]
	allow = ["write", "read", "close", "fstat", "newfstatat", "mmap", "munmap", "mprotect", "brk", "pread64", "access", "openat",
		"arch_prctl", "set_tid_address", "set_robust_list", "rseq", "prlimit64", "getrandom"$2]
	[[program]]
	path = "$work/getppid"
	[[program.compartment]]
	name = "getppid"
	allow = [$3]
	EOF
}
loop_policy "$work/all.policy" ', "getppid"' ''
loop_policy "$work/conditional.policy" '' '"getppid"'
loop_allowed() { governed "$work/all.policy" "$work/getppid" "${1:-1000000}" 2>/dev/null; }
loop_conditional() { governed "$work/conditional.policy" "$work/getppid" "${1:-1000000}" 2>/dev/null; }
loop_conditional_short() { loop_conditional 50000; }
loop_strace() { strace -f -o /dev/null -e trace=getppid "$work/getppid" 20000; }
# The loop as a bystander, while something else is governed.
cat >"$work/sleep.policy" <<-EOF
	schema = "bulkhead.policy/v1"
	on-violation = "kill"
	[baseline]
	allow = ["@file-system", "@basic-io", "@process", "@default", "@memlock", "clock_nanosleep", "exit_group", "getppid"]
	[[program]]
	path = "$(realpath "$(command -v sleep)")"
	EOF
loop_beside() {
	local governor
	governed "$work/sleep.policy" sleep 2 2>/dev/null &
	governor=$!
	sleep 0.7
	loop
	wait "$governor"
}

# learn NAME RATE: trace the benchmark itself; make of it a policy with each baseline, and the filter of their union. What
# starts the program under the filter needs execve.
learn() {
	local baseline
	$2 "$bulkhead" trace --out "$work/$1.json" -- >/dev/null
	for baseline in default none; do
		"$bulkhead" policy --baseline $baseline "$work/$1.json" 2>/dev/null |
			sed 's/^on-violation = .*/on-violation = "kill"/' >"$work/$1.$baseline"
		{
			cat "$work/$1.$baseline"
			printf '[[program]]\npath = "%s"\n[[program.compartment]]\nname = "launcher"\nallow = ["execve"]\n' "$work/filtered"
		} >"$work/union.policy"
		"$bulkhead" export --format bpf --out "$work/$1.$baseline.filter" "$work/union.policy"
	done
}
requests=${REQUESTS:-100000}
redis() { redis_rate "$requests" "$@"; }
redis_filtered() { redis "$work/filtered" "$work/redis.default.filter"; }
redis_governed() { governed_rate redis redis.default; }
redis_none_filtered() { redis "$work/filtered" "$work/redis.none.filter"; }
redis_none_governed() { governed_rate redis redis.none; }
nginx_filtered() { nginx_rate "$work/filtered" "$work/nginx.default.filter"; }
nginx_governed() { governed_rate nginx_rate nginx.default; }
# Without the cache each request opens its file, and asks about it twice: calls that are conditional.
nginx_cached_rate() { nginx_http='open_file_cache max=100;' nginx_rate "$@"; }
nginx_cached_filtered() { nginx_cached_rate "$work/filtered" "$work/nginx.default.filter"; }
nginx_cached_governed() { governed_rate nginx_cached_rate nginx.default; }
nginx_none_filtered() { nginx_rate "$work/filtered" "$work/nginx.none.filter"; }
nginx_none_governed() { governed_rate nginx_rate nginx.none; }
governed_rate() { # RATE POLICY
	$1 "$bulkhead" run --backend "$backend" --policy "$work/$2" --denials "$work/denials" --
	nothing_denied
}

# redis_start WRAPPER...: milliseconds from the command to the first answer.
redis_start() {
	python3 scripts/bench/start.py "$port" "$@" redis-server "${redis_options[@]}"
}
redis_started() { redis_start "$bulkhead" run --backend "$backend" --policy "$work/redis.default" --denials "$work/denials" --; }

learn redis redis
learn nginx nginx_rate

echo "medians of $rounds rounds (smallest to largest)"
for backend in ${BACKENDS:-kernel supervisor}; do
	echo "the $backend backend:"
	case $backend in
	kernel)
		compare "getppid loop, allowed to all / unfiltered (limit 1.5)" loop_allowed loop
		compare "getppid loop, conditional / unfiltered (limit 4)" loop_conditional loop
		compare "getppid loop, beside a governed process / alone (limit 1.35)" loop_beside loop
		nothing_denied
		compare "Redis requests per second / under one filter (at least 0.96)" redis_governed redis_filtered
		compare "Redis, --baseline none / under one filter (at least 0.85)" redis_none_governed redis_none_filtered
		compare "nginx requests per second / under one filter (at least 0.96)" nginx_governed nginx_filtered
		compare "nginx, --baseline none / under one filter (at least 0.85)" nginx_none_governed nginx_none_filtered
		redis_started >/dev/null
		added "ms that run adds to the start of Redis, warm (limit 150)" redis_started redis_start
		;;
	supervisor)
		compare "getppid loop, allowed to all / unfiltered (limit 1.4)" loop_allowed loop
		compare "getppid loop, conditional / under strace -e trace=getppid (limit 0.5)" loop_conditional_short loop_strace
		nothing_denied
		compare "Redis requests per second / under one filter (at least 0.95)" redis_governed redis_filtered
		compare "nginx requests per second / under one filter (at least 0.95)" nginx_governed nginx_filtered
		compare "nginx with open_file_cache / under one filter (at least 0.95)" nginx_cached_governed nginx_cached_filtered
		;;
	esac
done
