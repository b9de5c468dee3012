#!/bin/sh
# Install what the tests and the demo use. Debian 12; needs root only when something is missing.
set -eu
cd "$(dirname "$0")/.."

packages="
	binutils busybox-static ca-certificates clang-19 cpio crun curl fio g++ gcc gdb git groff-base libbpf-dev libc6-dbg libc6-dev linux-libc-dev llvm-19
	musl-tools nginx-light postgresql python3 qemu-system-x86 redis-server redis-tools runc sqlite3 make strace systemd util-linux wrk xz-utils"

# Debian's npm does not go with other builds of Node.js.
command -v npm >/dev/null || packages="$packages nodejs npm"

missing=
for package in $packages; do
	case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
	*" installed") ;;
	*) missing="$missing $package" ;;
	esac
done
if [ -n "$missing" ]; then
	echo "installing:$missing"
	apt-get -qq update
	# RUNLEVEL=1: the servers are for the tests to start, not for the machine.
	# shellcheck disable=SC2086
	RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends $missing >/dev/null
fi
internal/testenv/vm-kernels.sh
scripts/node-modules.sh
