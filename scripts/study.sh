#!/bin/sh
# study.sh record   runs the workloads, three times each, and puts what was traced into docs/study/documents
# study.sh report   writes docs/study's numbers and figures from the documents
# STUDY is where they go, instead of docs/study; BULKHEAD is the program.
set -eu
cd "$(dirname "$0")/.."
study=${STUDY:-docs/study}
bulkhead=${BULKHEAD:-$PWD/bulkhead}
runs=3

# name, path of the program as it is recorded, published reduction, published score of one filter and of the most privileged
# compartment
programs="
redis /usr/bin/redis-check-rdb 55.5 119 53
nginx /usr/sbin/nginx 24.4 78 59
fio /usr/bin/fio 55.6 45 20
postgresql /usr/lib/postgresql/15/bin/postgres 23.7 93 71
sqlite /usr/bin/sqlite3 - - -
git /usr/bin/git - - -
python /usr/bin/python3.11 - - -
curl /usr/bin/curl - - -
"

# traced NAME COMMAND...: run a command, or a server until it is stopped.
traced() {
	name=$1
	shift
	"$bulkhead" trace --out "$work/$name.$run.json" -- "$@" >"$work/$name.log" 2>&1
}

# wait_for COMMAND...: until it works.
wait_for() {
	tries=0
	until "$@" >/dev/null 2>&1; do
		tries=$((tries + 1))
		[ "$tries" -lt 300 ] || { echo "study: $1 does not answer: $(cat "$work"/*.log)" >&2; exit 1; }
		sleep 0.1
	done
}

redis() {
	port=26379
	traced redis redis-server --port $port --bind 127.0.0.1 --dir "$work" &
	wait_for redis-cli -p $port ping
	redis-benchmark -p $port -c 48 -n 20000 -q >/dev/null
	redis-cli -p $port bgsave >/dev/null
	sleep 1
	redis-cli -p $port shutdown >/dev/null 2>&1 || true
	wait
}

nginx_config() {
	mkdir -p "$work/www"
	echo '<p>hello</p>' >"$work/www/index.html"
	cat >"$work/nginx.conf" <<-END
		worker_processes auto;
		pid $work/nginx.pid;
		error_log $work/error.log;
		events { worker_connections 1024; }
		http { access_log off; sendfile on; server { listen 127.0.0.1:28080; root $work/www; } }
	END
	chmod 755 "$work"
}

nginx_load() {
	nginx_config
	traced nginx nginx -c "$work/nginx.conf" -g 'daemon off;' &
	wait_for curl -fs http://127.0.0.1:28080/
	wrk -c 200 -t 2 -d 3 http://127.0.0.1:28080/ >/dev/null
	kill -QUIT "$(cat "$work/nginx.pid")"
	wait
}

fio_load() {
	traced fio fio --name=write --rw=write --size=32M --bs=1M --numjobs=2 --direct=1 --iodepth=64 --iodepth_batch_submit=64 \
		--iodepth_batch_complete_max=64 --runtime=3 --time_based --ramp_time=1 --directory="$work"
}

postgresql() {
	bin=/usr/lib/postgresql/15/bin
	rm -rf "$work/pg"
	install -d -o postgres "$work/pg"
	chmod 755 "$work"
	setpriv --reuid=postgres --regid=postgres --clear-groups $bin/initdb -D "$work/pg" >/dev/null
	pg="-h $work/pg -p 25432 -U postgres"
	traced postgresql setpriv --reuid=postgres --regid=postgres --clear-groups \
		$bin/postgres -D "$work/pg" -p 25432 -k "$work/pg" -c listen_addresses=127.0.0.1 &
	wait_for psql $pg -c 'select 1'
	# shellcheck disable=SC2086
	{
		$bin/pgbench $pg -q -i postgres >/dev/null 2>&1
		$bin/pgbench $pg -c 8 -j 2 -T 5 postgres >/dev/null 2>&1
	}
	kill -INT "$(head -n 1 "$work/pg/postmaster.pid")"
	wait
}

sqlite() {
	cat >"$work/work.sql" <<-END
		CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);
		BEGIN;
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO t SELECT i, hex(randomblob(20)) FROM n;
		COMMIT;
		CREATE INDEX x ON t(b);
		SELECT count(*), max(b) FROM t WHERE b > 'A';
		VACUUM;
	END
	rm -f "$work/data.db"
	traced sqlite sqlite3 "$work/data.db" ".read $work/work.sql"
}

git_load() {
	rm -rf "$work/repo" "$work/clone"
	mkdir "$work/repo"
	cat >"$work/git.sh" <<-END
		set -e
		git init -q repo && cd repo
		for i in 1 2 3; do echo \$i >file\$i && git add . && git -c user.name=a -c user.email=a@b commit -qm \$i; done
		cd .. && git clone -q repo clone && cd clone && git log -p >/dev/null && git gc -q
	END
	(cd "$work" && HOME=$work traced git sh git.sh)
}

python() {
	traced python /usr/bin/python3.11 -c '
import asyncio, ctypes, hashlib, json, os, socket, sqlite3, ssl, subprocess, tempfile, threading, zlib
ssl.create_default_context()
sqlite3.connect(":memory:").execute("select 1").fetchall()
json.loads("[1]"); zlib.compress(b"x" * 1000); hashlib.sha256(b"x").hexdigest()
t = threading.Thread(target=lambda: None); t.start(); t.join()
with tempfile.TemporaryFile() as f: f.write(b"x")
subprocess.run(["true"])
async def main():
    s = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    r, w = await asyncio.open_connection(*s.sockets[0].getsockname())
    await r.read(); w.close(); s.close()
asyncio.run(main())'
}

curl_load() {
	nginx_config
	nginx -c "$work/nginx.conf"
	wait_for curl -fs http://127.0.0.1:28080/
	traced curl curl -s -o "$work/got" --retry 1 http://localhost:28080/
	kill -QUIT "$(cat "$work/nginx.pid")"
	sleep 0.5
}

record() {
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	mkdir -p "$study/documents"
	for run in $(seq $runs); do
		echo "study: run $run of $runs"
		redis; nginx_load; fio_load; postgresql; sqlite; git_load; python; curl_load
	done
	echo "$programs" | while read -r name path _; do
		[ -n "$name" ] || continue
		# The temporary folder is another one each time, and not part of what was found.
		"$bulkhead" report -o json "$work/$name".[0-9]*.json | sed "s|$work|/study|g" >"$study/documents/$name.json"
		grep -q "\"path\": \"$path\"" "$study/documents/$name.json" || { echo "study: $path is not in $name.json" >&2; exit 1; }
	done
	versions >"$study/versions.txt"
}

versions() {
	. /etc/os-release
	echo "$PRETTY_NAME, Linux $(uname -r), $(uname -m)"
	dpkg-query -W -f '${Package} ${Version}\n' curl fio git libc6 libsqlite3-0 nginx postgresql-15 python3.11 redis-server redis-tools sqlite3 wrk
}

report() {
	mkdir -p "$study/figures"
	rm -f "$study"/figures/*.svg "$study"/*.csv
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	first=yes
	{
		echo '<!-- Written by scripts/study.sh from docs/study/documents: make study. -->'
		echo '| program | compartments | kinds | one filter | divided | reduction | published | one filter, published | divided, published | in one compartment only | losses |'
		echo '| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |'
	} >"$study/numbers.md"
	echo "$programs" | while read -r name path published union divided; do
		[ -n "$name" ] || continue
		"$bulkhead" stats --evidence traced --figures "$work/$name" -o csv "$study/documents/$name.json" >"$work/$name.csv"
		[ -z "$first" ] || head -n 1 "$work/$name.csv" >"$study/compartments.csv"
		first=
		awk -F, -v path="$path" '$1 == path' "$work/$name.csv" >>"$study/compartments.csv"
		base=$(basename "$path")
		cp "$work/$name/privilege-$base.svg" "$study/figures/privilege-$name.svg"
		cp "$work/$name/overlap-$base.svg" "$study/figures/overlap-$name.svg"
		"$bulkhead" stats --evidence traced --rows shared -o csv "$study/documents/$name.json" |
			awk -F, -v path="$path" -v name="$name" 'NR == 1 && name == "redis" || $1 == path' >>"$study/shared.csv"
		awk -F, -v path="$path" -v name="$name" -v published="$published" -v union="$union" -v divided="$divided" '
			$1 == path { n++; kinds = $15; whole = $16; most = $17; reduction = $18; only = $19; complete = $20 }
			END { printf "| %s | %d | %d | %d | %d | %.1f %% | %s | %s | %s | %.1f %% | %s |\n", name, n, kinds, whole, most,
				100 * reduction, published == "-" ? "" : published " %", union == "-" ? "" : union, divided == "-" ? "" : divided,
				100 * only, complete == "true" ? "none" : "see the document" }' "$work/$name.csv" >>"$study/numbers.md"
	done
}

case ${1:-} in
record) record ;;
report) report ;;
*) echo "usage: study.sh record|report" >&2; exit 2 ;;
esac
