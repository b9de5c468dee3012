#!/bin/bash
# Run every fuzz target of the repository for a while, one after the other. An input that crashes, hangs or takes more
# than a gigabyte fails; it is kept in the package's testdata/fuzz, to be fixed and checked in.
#
#   scripts/fuzz.sh [TIME] [PATTERN]    for example 10m FuzzFile
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-10m}
pattern=${2:-.}
workers=${WORKERS:-$(nproc)}
cache=$(go env GOCACHE)/fuzz
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# An idle worker has 1.3 to 2 GB of addresses (a Go program's reservations and 100 MB shared with its coordinator).
limit=$((3 << 20)) # KiB

targets=$(go test -list '^Fuzz' ./... | awk -v pattern="$pattern" '
	/^Fuzz/ {found[++n] = $1}
	/^ok/ {for (i = 1; i <= n; i++) if (found[i] ~ pattern) print $2, found[i]; n = 0}')
[ -n "$targets" ] || { echo "fuzz: no target matches $pattern" >&2; exit 1; }
failed=()
while read -r package target; do
	echo "== $package $target"
	go test -c -fuzz "^$target\$" -o "$work/$target" "$package"
	folder=$(go list -f '{{.Dir}}' "$package")
	(cd "$folder" && ulimit -v $limit && exec "$work/$target" -test.run '^$' -test.fuzz "^$target\$" \
		-test.fuzztime "$time" -test.fuzzcachedir "$cache/$package" -test.parallel "$workers") </dev/null ||
		failed+=("$package $target")
done <<<"$targets"
[ ${#failed[@]} = 0 ] || { printf 'fuzz: failed: %s\n' "${failed[@]}" >&2; exit 1; }
