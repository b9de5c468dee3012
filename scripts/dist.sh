#!/bin/sh
# What a package installs, in dist/: the program, its manual and the completions of three shells. DIST is another folder,
# BULKHEAD a program that is built already.
set -eu
cd "$(dirname "$0")/.."
dist=${DIST:-dist}
rm -rf "$dist"
mkdir -p "$dist/man/man1" "$dist/completions"
if [ -n "${BULKHEAD:-}" ]; then
	cp "$BULKHEAD" "$dist/bulkhead"
else
	CGO_ENABLED=0 go build -trimpath -ldflags=-s -o "$dist/bulkhead" ./cmd/bulkhead
fi
"$dist/bulkhead" man "$dist/man/man1"
for shell in bash zsh fish; do
	"$dist/bulkhead" completion "$shell" >"$dist/completions/bulkhead.$shell"
done
