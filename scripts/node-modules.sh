#!/bin/sh
# Install the npm package that reads Parquet files in a test into .cache/npm.
set -eu
cd "$(dirname "$0")/.."
package=hyparquet version=1.31.5
installed=.cache/npm/node_modules/$package/package.json
if grep -qs "\"version\": \"$version\"" "$installed"; then
	exit 0
fi
mkdir -p .cache/npm
npm install --silent --no-audit --no-fund --no-save --prefix .cache/npm "$package@$version" >/dev/null
