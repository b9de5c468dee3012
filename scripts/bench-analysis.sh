#!/bin/bash
# What the analysis costs. Ratios to objdump -d on the same files travel between machines, seconds do not. With callander
# (github.com/rpetrich/callander) in PATH it is measured beside; without, its recorded ratios are printed.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python3 scripts/bench/analysis.py "$PWD/bulkhead" "${ROUNDS:-5}"
