#!/bin/sh
# What a package installs, in dist/: the program, its manual and the completions of three shells.
set -eu
cd "$(dirname "$0")/.."
rm -rf dist
mkdir -p dist/man/man1 dist/completions
CGO_ENABLED=0 go build -trimpath -ldflags=-s -o dist/bulkhead ./cmd/bulkhead
dist/bulkhead man dist/man/man1
for shell in bash zsh fish; do
	dist/bulkhead completion "$shell" >"dist/completions/bulkhead.$shell"
done
