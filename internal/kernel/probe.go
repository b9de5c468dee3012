package kernel

import (
	"errors"
	"fmt"
	"slices"
)

// Feature names one probe.
type Feature string

const (
	KernelVersion  Feature = "kernel-version"
	BTF            Feature = "btf"
	Lockdown       Feature = "lockdown"
	LSMList        Feature = "lsm-list"
	CgroupV2       Feature = "cgroup-v2"
	Capabilities   Feature = "capabilities"
	NoNewPrivs     Feature = "no-new-privs"
	Memlock        Feature = "memlock"
	Container      Feature = "container"
	BPF            Feature = "bpf"
	BPFJIT         Feature = "bpf-jit"
	RawTracepoint  Feature = "raw-tp"
	TestRun        Feature = "raw-tp-test-run"
	TraceSyscalls  Feature = "tp-btf"
	ReadKernel     Feature = "bpf-read-kernel"
	TaskIterator   Feature = "task-iterator"
	FindVMA        Feature = "bpf-find-vma"
	Loop           Feature = "bpf-loop"
	TaskStorage    Feature = "task-storage"
	RingBuffer     Feature = "ring-buffer"
	PerfMmap       Feature = "perf-mmap"
	SendSignal     Feature = "bpf-send-signal"
	LSMProgram     Feature = "lsm-program"
	Fentry         Feature = "fentry"
	FmodRet        Feature = "fmod-ret"
	CgroupSock     Feature = "cgroup-sock"
	SeccompFilter  Feature = "seccomp-filter"
	SeccompTrace   Feature = "seccomp-trace"
	SeccompNotify  Feature = "seccomp-notify"
	PtraceSeize    Feature = "ptrace-seize"
	ProcessVMReadv Feature = "process-vm-readv"
	Yama           Feature = "yama"
)

// Use is something that Bulkhead does and that needs features.
type Use string

const (
	Trace      Use = "trace"
	KernelKill Use = "enforce-kernel-kill"
	KernelDeny Use = "enforce-kernel-deny"
	Supervisor Use = "enforce-supervisor"
)

// Uses lists all, in the order in which they are reported.
var Uses = []Use{Trace, KernelKill, KernelDeny, Supervisor}

// A probe finds out about one feature. run returns what it saw and an error if
// the feature is missing; it is called only if all features in after are there,
// as without them it could not tell.
type probe struct {
	feature Feature
	group   string
	uses    []Use
	since   Version
	after   []Feature
	run     func(*prober) (detail string, err error)
}

var (
	byTracing = []Use{Trace, KernelKill, KernelDeny}
	byKernel  = []Use{KernelKill, KernelDeny}
	byDeny    = []Use{KernelDeny}
	bySuper   = []Use{Supervisor}
)

// probes in the order in which they are shown. An empty uses marks what only
// informs or serves as a fallback.
var probes = []probe{
	{KernelVersion, "Kernel", nil, MinTrace, nil, (*prober).kernelVersion},
	{BTF, "Kernel", byTracing, Version{5, 4}, nil, (*prober).btf},
	{Lockdown, "Kernel", nil, Version{}, nil, (*prober).lockdown},
	{LSMList, "Kernel", nil, Version{5, 7}, nil, (*prober).lsmList},
	{CgroupV2, "Kernel", nil, Version{4, 5}, nil, (*prober).cgroupV2},

	{Capabilities, "Process", byTracing, Version{}, nil, (*prober).capabilities},
	{NoNewPrivs, "Process", nil, Version{3, 5}, nil, (*prober).noNewPrivs},
	{Memlock, "Process", nil, Version{}, nil, (*prober).memlock},
	{Container, "Process", nil, Version{}, nil, (*prober).container},

	{BPF, "Tracing", byTracing, Version{4, 17}, nil, (*prober).bpf},
	{BPFJIT, "Tracing", byTracing, Version{}, []Feature{BPF}, (*prober).bpfJIT},
	{RawTracepoint, "Tracing", nil, Version{4, 17}, []Feature{BPF}, (*prober).rawTracepoint},
	{TestRun, "Tracing", byTracing, Version{5, 10}, []Feature{BPF}, (*prober).testRun},
	{TraceSyscalls, "Tracing", byTracing, Version{5, 5}, []Feature{BPF, BTF}, (*prober).traceSyscalls},
	{ReadKernel, "Tracing", byTracing, Version{5, 5}, []Feature{TraceSyscalls}, (*prober).readKernel},
	{TaskIterator, "Tracing", byTracing, Version{5, 8}, []Feature{BPF, BTF}, (*prober).taskIterator},
	{FindVMA, "Tracing", byTracing, Version{5, 17}, []Feature{TraceSyscalls}, (*prober).findVMA},
	{Loop, "Tracing", byTracing, Version{5, 17}, []Feature{TraceSyscalls}, (*prober).loop},
	{TaskStorage, "Tracing", byTracing, Version{5, 13}, []Feature{TraceSyscalls}, (*prober).taskStorage},
	{RingBuffer, "Tracing", byTracing, Version{5, 8}, []Feature{BPF}, (*prober).ringBuffer},
	{PerfMmap, "Tracing", byTracing, Version{3, 16}, nil, (*prober).perfMmap},

	{SendSignal, "Enforcing in the kernel", byKernel, Version{5, 3}, []Feature{TraceSyscalls}, (*prober).sendSignal},
	{LSMProgram, "Enforcing in the kernel", byDeny, Version{5, 7}, []Feature{BPF, BTF}, (*prober).lsmProgram},
	{Fentry, "Enforcing in the kernel", nil, Version{5, 5}, []Feature{BPF, BTF}, (*prober).fentry},
	{FmodRet, "Enforcing in the kernel", nil, Version{5, 7}, []Feature{BPF, BTF}, (*prober).fmodRet},
	{CgroupSock, "Enforcing in the kernel", nil, Version{4, 17}, []Feature{BPF, CgroupV2}, (*prober).cgroupSock},

	{SeccompFilter, "Enforcing by a supervisor", bySuper, Version{3, 17}, nil, (*prober).seccompFilter},
	{SeccompTrace, "Enforcing by a supervisor", bySuper, Version{3, 5}, nil, (*prober).seccompTrace},
	{SeccompNotify, "Enforcing by a supervisor", nil, Version{5, 0}, nil, (*prober).seccompNotify},
	{PtraceSeize, "Enforcing by a supervisor", bySuper, Version{3, 4}, nil, (*prober).ptraceSeize},
	{ProcessVMReadv, "Enforcing by a supervisor", bySuper, Version{3, 2}, []Feature{PtraceSeize}, (*prober).processVMReadv},
	{Yama, "Enforcing by a supervisor", nil, Version{}, nil, (*prober).yama},
}

// Result is what one probe found.
type Result struct {
	Name       Feature `json:"name"`
	Available  bool    `json:"available"`
	Probed     bool    `json:"probed"`      // false: this process could not find out, Available is false then
	Detail     string  `json:"detail"`      // what was seen
	NeededFor  []Use   `json:"needed_for"`  // empty: it informs, or is a fallback
	MinVersion string  `json:"min_version"` // the first kernel that has it; empty if that is not what matters
	Remedy     string  `json:"remedy"`      // empty if available, or if nothing is known to help

	err error
}

// Err is nil if the feature is available, else a [*NotSupported].
func (r Result) Err() error { return r.err }

// Have probes one feature and returns nil if this process can use it, else a
// [*NotSupported].
func Have(feature Feature) error { return newProber().result(feature).err }

// Require probes what use needs and returns nil if all of that is there, else
// the [*NotSupported] of each missing feature, joined.
func Require(use Use) error {
	p := newProber()
	var missing []error
	for _, probe := range probes {
		if slices.Contains(probe.uses, use) {
			missing = append(missing, rootCause(p.result(probe.feature)))
		}
	}
	return errors.Join(missing...)
}

// rootCause drops the error of a feature that was not probed because another,
// which is reported itself, is missing.
func rootCause(r Result) error {
	var missing *missingPrerequisite
	if errors.As(r.err, &missing) {
		return nil
	}
	return r.err
}

// missingPrerequisite is why a probe did not run.
type missingPrerequisite struct{ feature Feature }

func (m *missingPrerequisite) Error() string {
	return fmt.Sprintf("not probed, as %s is missing", m.feature)
}

// prober runs each probe of its table at most once.
type prober struct {
	host
	table   []probe
	results map[Feature]Result
}

func newProber() *prober { return &prober{table: probes, results: map[Feature]Result{}} }

func (p *prober) result(feature Feature) Result {
	if result, done := p.results[feature]; done {
		return result
	}
	i := slices.IndexFunc(p.table, func(probe probe) bool { return probe.feature == feature })
	if i < 0 {
		panic("kernel: no probe for feature " + string(feature))
	}
	result := p.run(p.table[i])
	p.results[feature] = result
	return result
}

func (p *prober) run(probe probe) Result {
	result := Result{
		Name:       probe.feature,
		NeededFor:  append([]Use{}, probe.uses...),
		MinVersion: probe.since.String(),
	}
	detail, err := p.attempt(probe)
	if err == nil {
		result.Available, result.Probed, result.Detail = true, true, detail
		return result
	}
	var prerequisite *missingPrerequisite
	var notFound *unknown
	result.Probed = !errors.As(err, &prerequisite) && !errors.As(err, &notFound)
	result.Detail = err.Error()
	if detail != "" {
		result.Detail += " (" + detail + ")"
	}
	var known *remedied
	switch version, versionErr := p.version(); {
	case errors.As(err, &known):
		result.Remedy = known.remedy
	case prerequisite == nil && versionErr == nil && version.Before(probe.since):
		result.Remedy = fmt.Sprintf("boot Linux %s or later (this is %s)", probe.since, version)
	}
	result.err = &NotSupported{Feature: probe.feature, MinVersion: probe.since, Remedy: result.Remedy, Err: err}
	return result
}

func (p *prober) attempt(probe probe) (detail string, err error) {
	for _, feature := range probe.after {
		if !p.result(feature).Available {
			return "", &missingPrerequisite{feature}
		}
	}
	return probe.run(p)
}
