# What the benchmarks share; to be sourced. Each pair is measured in turn (A B A B ...), the figure is the median of the
# ratios: single times of a busy or virtual machine say little.
rounds=${ROUNDS:-7}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bulkhead=$PWD/bulkhead

# median FILE: the middle of the numbers in it, then the smallest and the largest.
median() { sort -n "$1" | awk '{v[NR]=$1} END {printf "%.2f  (%.2f to %.2f)", v[int((NR+1)/2)], v[1], v[NR]}'; }
# ratio A B
ratio() { awk -v a="$1" -v b="$2" 'BEGIN {print a/b}'; }
# wanted NAME: whether the line is to be measured: ONLY='getppid*' picks some.
# shellcheck disable=SC2053
wanted() { [[ $1 == ${ONLY:-*} ]]; }
# compare NAME COMMAND_A COMMAND_B: the ratio of what the two print.
compare() {
	local i a b
	wanted "$1" || return 0
	: >"$work/ratios"
	for ((i = 0; i < rounds; i++)); do
		a=$($2)
		b=$($3)
		ratio "$a" "$b" >>"$work/ratios"
	done
	printf '%-68s %s\n' "$1" "$(median "$work/ratios")"
}
# added NAME COMMAND_A COMMAND_B: how much more the first one prints.
added() {
	local i a b
	wanted "$1" || return 0
	: >"$work/differences"
	for ((i = 0; i < rounds; i++)); do
		a=$($2)
		b=$($3)
		awk -v a="$a" -v b="$b" 'BEGIN {print a-b}' >>"$work/differences"
	done
	printf '%-68s %s\n' "$1" "$(median "$work/differences")"
}
# figure NAME COMMAND: what it prints.
figure() {
	local i
	wanted "$1" || return 0
	: >"$work/figures"
	for ((i = 0; i < rounds; i++)); do $2 >>"$work/figures"; done
	printf '%-68s %s\n' "$1" "$(median "$work/figures")"
}

gcc -O2 -o "$work/getppid" scripts/bench/getppid.c
loop() { "$work/getppid" "${1:-1000000}"; }

# answers COMMAND...: wait until it works.
answers() {
	local tries=0
	until "$@" >/dev/null 2>&1; do
		tries=$((tries + 1))
		[ "$tries" -lt 500 ] || { echo "bench: does not answer: $*" >&2; exit 1; }
		sleep 0.02
	done
}

# redis_rate REQUESTS WRAPPER...: requests per second, server and client on one processor.
port=${PORT:-16391}
redis_options=(--port "$port" --bind 127.0.0.1 --save "" --loglevel warning)
redis_rate() {
	local server requests=$1
	shift
	taskset -c 0 "$@" redis-server "${redis_options[@]}" >"$work/said" 2>&1 &
	server=$!
	answers redis-cli -p "$port" ping
	taskset -c 0 redis-benchmark -p "$port" -n "$requests" -c 20 -t get -q | tr '\r' '\n' |
		sed -n 's/^GET: \([0-9.]*\) requests per second.*/\1/p' | tail -n 1
	redis-cli -p "$port" shutdown nosave >/dev/null 2>&1 || true
	wait "$server"
}

# nginx_rate WRAPPER...: the same of nginx, which serves a small file. nginx_http has more lines for its configuration.
nginx_port=$((port + 1))
nginx_setup() {
	mkdir -p "$work/www"
	chmod 755 "$work" "$work/www"
	echo '<p>hello</p>' >"$work/www/index.html"
	cat >"$work/nginx.conf" <<-END
		daemon off; worker_processes 1; pid $work/nginx.pid; error_log $work/error.log;
		events { worker_connections 1024; }
		http { access_log off; sendfile on; server { listen 127.0.0.1:$nginx_port; root $work/www; } ${nginx_http-} }
	END
}
nginx_rate() {
	local server
	nginx_setup
	taskset -c 0 "$@" nginx -c "$work/nginx.conf" >"$work/said" 2>&1 &
	server=$!
	answers curl -fs "http://127.0.0.1:$nginx_port/"
	taskset -c 0 wrk -c 20 -t 1 -d "${seconds:-2}" "http://127.0.0.1:$nginx_port/" |
		sed -n 's/^Requests\/sec: *\([0-9.]*\)/\1/p'
	kill -QUIT "$(cat "$work/nginx.pid")"
	wait "$server"
}
