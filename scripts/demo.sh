#!/bin/sh
# The main job: a Redis server under load, every system call charged to the library that caused it.
set -eu
cd "$(dirname "$0")/.."
port=${PORT:-16390}

./bulkhead trace --out demo.json -o json -- \
	redis-server --port "$port" --bind 127.0.0.1 --save "" --loglevel warning >/dev/null &
tracer=$!
trap 'kill "$tracer" 2>/dev/null || true' EXIT
tries=0
until redis-cli -p "$port" ping >/dev/null 2>&1; do
	tries=$((tries + 1))
	[ "$tries" -lt 100 ] || { echo "demo: redis-server did not start on port $port (PORT=... takes another)" >&2; exit 1; }
	sleep 0.1
done
echo "redis-benchmark: 200,000 requests"
redis-benchmark -p "$port" -n 100000 -c 20 -t set,get -q | tr '\r' '\n' | grep 'requests per second'
redis-cli -p "$port" shutdown nosave >/dev/null 2>&1 || true
wait "$tracer"
trap - EXIT
echo
./bulkhead report demo.json

# The experiment: what examples/two-compartments/README.md tells to type.
printf '\n== Two compartments: a parser is taken over, under one filter for all and under one for each library\n\n'
example=$(mktemp -d)
trap 'rm -rf "$example"' EXIT
cp -r examples/two-compartments/. "$example"
PATH=$PWD:$PATH
cd "$example"
awk '/^```$/ { on = 0 } on { print } /^```sh$/ { on = 1 }' README.md >commands
while read -r command; do
	printf '$ %s\n' "$command"
	sh -c "$command" </dev/null
	echo
done <commands
