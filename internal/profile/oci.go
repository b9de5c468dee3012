package profile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bulkhead/internal/policy"
	"bulkhead/internal/syscalls"
)

// ociProfile is LinuxSeccomp of the runtime specification, with the comments that Docker's profiles have.
type ociProfile struct {
	specs.LinuxSeccomp
	Syscalls []ociRule `json:"syscalls"`
}

type ociRule struct {
	Comment string `json:"comment,omitempty"`
	specs.LinuxSyscall
}

// architectures are the specification's names of ABIs. A program's filter is for its own.
var architectures = map[syscalls.ABI]specs.Arch{
	syscalls.AMD64: specs.ArchX86_64, syscalls.I386: specs.ArchX86, syscalls.X32: specs.ArchX32, syscalls.ARM64: specs.ArchAARCH64,
}

func writeOCI(w io.Writer, p *Profile, o Options) error {
	profile, err := p.oci(o)
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(profile)
}

func (p *Profile) oci(o Options) (*ociProfile, error) {
	names, err := p.names("an OCI profile")
	if err != nil {
		return nil, err
	}
	out := &ociProfile{LinuxSeccomp: specs.LinuxSeccomp{Architectures: []specs.Arch{architectures[p.ABI]}}}
	out.add("", specs.ActAllow, 0, names)
	if !o.NoRuntime {
		out.add(runtimeComment, specs.ActAllow, 0, without(runtimeGroup(), names))
	}
	switch p.OnViolation {
	case policy.Kill:
		out.DefaultAction = specs.ActKillProcess
	case policy.Audit:
		out.DefaultAction = specs.ActLog
	default:
		// What is not named is newer than the profile.
		out.DefaultAction, out.DefaultErrnoRet = specs.ActErrno, errno(unix.ENOSYS)
		out.add(notAllowed, specs.ActErrno, unix.EPERM, without(p.denied(unix.EPERM), out.allowed()))
	}
	return out, nil
}

func (o *ociProfile) add(comment string, action specs.LinuxSeccompAction, e unix.Errno, names []string) {
	if len(names) == 0 {
		return
	}
	rule := ociRule{comment, specs.LinuxSyscall{Names: names, Action: action}}
	if e != 0 {
		rule.ErrnoRet = errno(e)
	}
	o.Syscalls = append(o.Syscalls, rule)
}

// allowed returns the names that a rule allows.
func (o *ociProfile) allowed() []string {
	var names []string
	for _, rule := range o.Syscalls {
		if rule.Action == specs.ActAllow {
			names = append(names, rule.Names...)
		}
	}
	return names
}

// notAllowed labels the known calls that are denied.
const notAllowed = "known, and not allowed"

func errno(e unix.Errno) *uint { n := uint(e); return &n }

// ReadOCI makes the policy of a program of an OCI profile. The group of the container runtime is left out. A rule that
// depends on arguments cannot be said in a policy and is an error, as are names that are no system calls.
func ReadOCI(data []byte, program string) (*policy.Policy, error) {
	var in ociProfile
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, fmt.Errorf("not an OCI seccomp profile: %w", err)
	}
	abi, on, err := in.kind()
	if err != nil {
		return nil, err
	}
	var names []string
	for i, rule := range in.Syscalls {
		switch {
		case rule.Action == specs.ActAllow && len(rule.Args) > 0:
			return nil, fmt.Errorf("syscalls[%d] %v: allowed for some arguments only, and a policy has no arguments", i, rule.Names)
		case rule.Action != specs.ActAllow || rule.Comment == runtimeComment:
			continue
		}
		for _, name := range rule.Names {
			if _, ok := syscalls.Number(abi, name); !ok && !known(name) {
				return nil, fmt.Errorf("syscalls[%d]: no system call is named %q", i, name)
			} else if ok {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return onePolicy(program, abi, on, slices.Compact(names))
}

// known reports whether any ABI has the call: profiles list those of several.
func known(name string) bool {
	return slices.ContainsFunc([]syscalls.ABI{syscalls.AMD64, syscalls.I386, syscalls.ARM64}, func(abi syscalls.ABI) bool {
		_, ok := syscalls.Number(abi, name)
		return ok
	})
}

// kind returns what the profile is for, and what it does to calls that it does not allow.
func (o *ociProfile) kind() (syscalls.ABI, policy.OnViolation, error) {
	if o.DefaultAction == "" {
		return 0, "", errors.New(`not an OCI seccomp profile: there is no "defaultAction"`)
	}
	on, ok := map[specs.LinuxSeccompAction]policy.OnViolation{
		specs.ActErrno: policy.Deny, specs.ActKill: policy.Kill, specs.ActKillProcess: policy.Kill, specs.ActKillThread: policy.Kill,
		specs.ActLog: policy.Audit,
	}[o.DefaultAction]
	if !ok {
		return 0, "", fmt.Errorf("defaultAction %s: only a profile that lists what is allowed becomes a policy (SCMP_ACT_ERRNO, _KILL or _LOG)", o.DefaultAction)
	}
	for _, abi := range []syscalls.ABI{syscalls.AMD64, syscalls.ARM64} {
		if len(o.Architectures) == 0 || slices.Contains(o.Architectures, architectures[abi]) {
			return abi, on, nil
		}
	}
	return 0, "", fmt.Errorf("architectures %v: want SCMP_ARCH_X86_64 or SCMP_ARCH_AARCH64 among them", o.Architectures)
}
