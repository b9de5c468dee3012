package profile

import (
	"fmt"
	"io"
	"strings"

	"bulkhead/internal/attribution"
	"bulkhead/internal/policy"
)

// Options are for some of the formats.
type Options struct {
	// NoRuntime leaves out what container runtimes do under the filter before the program starts (oci, kubernetes).
	NoRuntime bool
	// Into is a bill of materials to add to (cyclonedx).
	Into []byte
	// Document is what the policy was derived from, if it was: its objects are the components of a bill of materials.
	Document *attribution.Document
}

// Format is a format that policies are exported to.
type Format struct {
	Name  string
	About string
	write func(w io.Writer, p *policy.Policy, o Options) error
}

// Formats are all formats, in the order of the help text.
var Formats = []Format{
	{"oci", "seccomp profile of the OCI runtime specification: runc, crun, Docker, Podman", whole(writeOCI)},
	{"kubernetes", "SeccompProfile of the Security Profiles Operator", whole(writeKubernetes)},
	{"systemd", "drop-in for a service: SystemCallFilter=", whole(writeSystemd)},
	{"bpf", "classic BPF program for seccomp(2): struct sock_filter[]", whole(writeBPF)},
	{"bpf-text", "its disassembly", whole(writeBPFText)},
	{"c-header", "bit tables of compartments and system calls, for the shim of a library OS", writeHeader},
	{"cyclonedx", "bill of materials: the system calls of each library as properties", writeCycloneDX},
}

// whole is for the formats that have one filter for all compartments.
func whole(write func(io.Writer, *Profile, Options) error) func(io.Writer, *policy.Policy, Options) error {
	return func(w io.Writer, p *policy.Policy, o Options) error {
		profile, err := Of(p)
		if err != nil {
			return err
		}
		return write(w, profile, o)
	}
}

// Write writes a policy in the format with the name given.
func Write(w io.Writer, format string, p *policy.Policy, o Options) error {
	var names []string
	for _, f := range Formats {
		if f.Name == format {
			return f.write(w, p, o)
		}
		names = append(names, f.Name)
	}
	return fmt.Errorf("unknown format %q: want %s", format, strings.Join(names, ", "))
}
