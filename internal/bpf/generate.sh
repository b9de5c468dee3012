#!/bin/sh
# Compile the BPF programs and generate their Go side. Needs clang-19, libbpf-dev and linux-libc-dev.
set -eu

# generate NAME TYPE...: NAME.bpf.c with the types that Go shares.
generate() {
	name=$1
	shift
	flags=
	for type in "$@"; do
		flags="$flags -type $type"
	done
	# shellcheck disable=SC2086
	go tool bpf2go -go-package bpf -output-dir . -cc clang-19 -strip llvm-strip-19 -target amd64 $flags \
		"$name" "$name.bpf.c" -- -O2 -mcpu=v3 -Wall -Wno-unused-function -I"/usr/include/$(uname -m)-linux-gnu"
}

generate trace abi block capture_event capture_flags chain_key count count_key event event_kind frame object \
	object_flags object_id piece region region_flags registers rule rule_flags rule_kind saved stack_event tally tally_key walk walk_end
generate enforce answer binding binding_flags binding_key exec_answer filter filter_row image_key tally violation violation_kind
