#!/bin/sh
# Fetches the Debian cloud kernels that the virtual machine tests boot into
# .cache/kernels/{6.1,6.12}/vmlinuz. The packages are unpacked, not installed:
# no boot loader, no hooks, no root. Needs "apt-get update" to have run once.
set -eu
cache=$(cd "$(dirname "$0")/../.." && pwd)/.cache/kernels
mkdir -p "$cache"

# fetch SERIES META: META is the package that depends on the newest build of SERIES.
fetch() {
	package=$(apt-cache depends --important "$2" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
	case "$package" in
	linux-image-"$1".*) ;;
	*)
		echo "vm-kernels: no package source here serves Linux $1 as $2 (found: ${package:-nothing});" \
			"run apt-get update, for 6.12 on Debian 12 with bookworm-security or bookworm-backports" >&2
		return 1
		;;
	esac
	if [ "$(cat "$cache/$1/package" 2>/dev/null)" = "$package" ] && [ -s "$cache/$1/vmlinuz" ]; then
		return 0
	fi
	echo "vm-kernels: fetching $package"
	work=$(mktemp -d "$cache/fetch.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	(cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "$package")
	dpkg-deb --fsys-tarfile "$work"/*.deb | tar -x -C "$work" --wildcards './boot/vmlinuz-*'
	mkdir -p "$cache/$1"
	mv "$work"/boot/vmlinuz-* "$cache/$1/vmlinuz"
	echo "$package" >"$cache/$1/package"
	rm -rf "$work"
	trap - EXIT
}

fetch 6.1 linux-image-cloud-amd64
fetch 6.12 linux-image-6.12-cloud-amd64
