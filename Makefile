# The two that do everything on a fresh Debian 12 machine with Go and root:
#   make demo    trace a real server under a real load, then stop an attack in one library of a program
#   make test    all tests
export CGO_ENABLED = 0

bulkhead: FORCE
	go build -trimpath -ldflags=-s -o bulkhead ./cmd/bulkhead

demo: setup bulkhead
	scripts/demo.sh

test: setup generated
	go vet ./...
	go test -timeout 30m ./...

# What the tests and the demo use: compilers for fixtures, the programs that are traced, the peers to compare with.
setup:
	scripts/setup.sh

# The generated files that are checked in are what their sources give.
generate:
	go generate ./internal/bpf ./internal/syscalls
generated: setup generate
	git diff --exit-code -- internal/bpf/*_bpfel.* internal/syscalls/z*.go

# Every program of /usr/bin and /usr/sbin, traced with --version and --help: nothing seen may be missing in its analysis.
# PART=3/20 takes the third of twenty parts.
PART ?= all
soundness: setup
	BULKHEAD_SOUNDNESS=$(PART) go test -count=1 -timeout 3h -v -run TestSweep ./cmd/bulkhead

# What needs a kernel with BPF LSM, or another one than this machine's, in qemu: Debian's 6.1 and 6.12. make test runs it too.
test-kernels: setup
	CI=1 go test -count=1 -timeout 1h -v -run 'InVM$$|TestVM' ./...

# Enforcing at full size: 10,000 forks, 1,000 policies one after another, servers under whole benchmarks.
stress: setup
	BULKHEAD_STRESS=1 go test -count=1 -timeout 1h -v -run 'TestNoFalseDenial|TestApply$$' ./internal/enforce/inkernel
	BULKHEAD_SERVERS=1 go test -count=1 -timeout 1h -v -run TestServers ./cmd/bulkhead

# How many system calls the analysis gives: fixed programs, and the mean of a sample drawn with SEED.
SEED ?= 1
precision: setup
	BULKHEAD_SAMPLE=$(SEED),150 go test -count=1 -timeout 1h -v -run 'TestPrecise|TestSample' ./internal/analysis

bench: setup bulkhead
	scripts/bench.sh
	scripts/bench-enforce.sh
	scripts/bench-analysis.sh

# What a package installs, in dist/: the program, its manual, completions.
dist: FORCE
	scripts/dist.sh

# make install DESTDIR=/tmp/package PREFIX=/usr
PREFIX ?= /usr/local
install: dist
	scripts/install.sh "$(DESTDIR)$(PREFIX)"

# Record the workloads anew, and write docs/study from what was recorded.
study: setup bulkhead
	scripts/study.sh record
	scripts/study.sh report

FUZZTIME ?= 10m
fuzz:
	scripts/fuzz.sh $(FUZZTIME)

FORCE:
.PHONY: FORCE dist install study demo test test-kernels stress setup generate generated soundness precision bench fuzz
