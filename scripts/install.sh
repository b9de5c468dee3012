#!/bin/sh
# Copy what scripts/dist.sh made, into DIST or dist, to where programs, manuals and completions are below a prefix: install.sh PREFIX
set -eu
cd "$(dirname "$0")/.."
prefix=$1
cd "${DIST:-dist}"
install -D -m 755 bulkhead "$prefix/bin/bulkhead"
for page in man/man1/*; do
	install -D -m 644 "$page" "$prefix/share/$page"
done
install -D -m 644 completions/bulkhead.bash "$prefix/share/bash-completion/completions/bulkhead"
install -D -m 644 completions/bulkhead.zsh "$prefix/share/zsh/site-functions/_bulkhead"
install -D -m 644 completions/bulkhead.fish "$prefix/share/fish/vendor_completions.d/bulkhead.fish"
