package profile

import (
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
)

// seccompProfile is the resource of the Security Profiles Operator.
type seccompProfile struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec seccompSpec `yaml:"spec"`
}

type seccompSpec struct {
	DefaultAction string        `yaml:"defaultAction"`
	Architectures []string      `yaml:"architectures"`
	Syscalls      []seccompRule `yaml:"syscalls"`
}

type seccompRule struct {
	Action   string   `yaml:"action"`
	ErrnoRet *uint    `yaml:"errnoRet,omitempty"`
	Names    []string `yaml:"names"`

	comment string
}

// MarshalYAML puts the comment above the rule.
func (r seccompRule) MarshalYAML() (any, error) {
	type plain seccompRule
	var node yaml.Node
	if err := node.Encode(plain(r)); err != nil {
		return nil, err
	}
	node.HeadComment = r.comment
	return &node, nil
}

// notName is what names of Kubernetes' objects cannot have (RFC 1123).
var notName = regexp.MustCompile(`[^a-z0-9.-]+`)

// writeKubernetes writes version v1 of the resource. It has no error number for calls that it does not name, which
// therefore fail with EPERM, so that the calls to fail with ENOSYS are named; runtimes answer ENOSYS to what is newer than
// all names.
func writeKubernetes(w io.Writer, p *Profile, o Options) error {
	oci, err := p.oci(o)
	if err != nil {
		return err
	}
	var out seccompProfile
	out.APIVersion, out.Kind = "security-profiles-operator.x-k8s.io/v1", "SeccompProfile"
	out.Metadata.Name = strings.Trim(notName.ReplaceAllString(strings.ToLower(path.Base(p.Policy.Programs[0].Path)), "-"), "-.")
	out.Spec = seccompSpec{DefaultAction: string(oci.DefaultAction)}
	for _, a := range oci.Architectures {
		out.Spec.Architectures = append(out.Spec.Architectures, string(a))
	}
	for _, rule := range oci.Syscalls {
		if rule.Action == specs.ActErrno {
			rule.Comment, rule.ErrnoRet = notAllowed+", newer than Linux 4.10", errno(unix.ENOSYS)
			rule.Names = without(p.denied(unix.ENOSYS), oci.allowed())
		}
		out.Spec.Syscalls = append(out.Spec.Syscalls, seccompRule{string(rule.Action), rule.ErrnoRet, rule.Names, rule.Comment})
	}
	if out.Metadata.Name == "" {
		return fmt.Errorf("%s: no name for a Kubernetes object can be made of it", p.Policy.Programs[0].Path)
	}
	encoder := yaml.NewEncoder(w)
	encoder.SetIndent(2)
	if err := encoder.Encode(out); err != nil {
		return err
	}
	return encoder.Close()
}
