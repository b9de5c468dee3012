package profile

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulkhead/internal/policy"
	"bulkhead/internal/syscalls"
)

var update = flag.Bool("update", false, "write the golden files anew")

func load(t *testing.T, file string) *policy.Policy {
	t.Helper()
	p, err := policy.Load(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func parse(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func export(t *testing.T, format string, p *policy.Policy, o Options) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Write(&out, format, p, o); err != nil {
		t.Fatalf("%s: %v", format, err)
	}
	return out.Bytes()
}

func TestGolden(t *testing.T) {
	for file, format := range map[string]string{
		"oci.json": "oci", "kubernetes.yaml": "kubernetes", "systemd.conf": "systemd", "bpf.txt": "bpf-text",
		"header.h": "c-header", "cyclonedx.json": "cyclonedx", "flexos.policy": "",
	} {
		t.Run(file, func(t *testing.T) {
			var got []byte
			if format != "" {
				got = export(t, format, load(t, "app.policy"), Options{})
			} else {
				got = imported(t, ReadFlexOS, "kraft.yaml", "/usr/bin/shop")
			}
			path := filepath.Join("testdata", file)
			if *update {
				if err := os.WriteFile(path, got, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s differs (-want +got), -update writes it anew:\n%s", path, diff)
			}
		})
	}
}

type reader func(data []byte, program string) (*policy.Policy, error)

func imported(t *testing.T, read reader, file, program string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return textOf(t, read, data, program)
}

func textOf(t *testing.T, read reader, data []byte, program string) []byte {
	t.Helper()
	p, err := read(data, program)
	if err != nil {
		t.Fatal(err)
	}
	text, err := p.Text()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestRoundTrip: what a policy with one filter exports is the same policy when it comes back, and what another exports
// allows the same calls.
func TestRoundTrip(t *testing.T) {
	for format, read := range map[string]reader{"oci": ReadOCI, "systemd": ReadSystemd} {
		t.Run(format, func(t *testing.T) {
			for _, on := range []policy.OnViolation{policy.Deny, policy.Kill} {
				one := load(t, "busybox.policy")
				one.OnViolation = on
				slices.SortFunc(one.Programs[0].Compartments[0].Allow.Calls, func(a, b policy.Call) int {
					return strings.Compare(a.Name, b.Name)
				})
				// What every program may do is named by the profile.
				for _, name := range []string{"exit", "exit_group", "restart_syscall", "rt_sigreturn"} {
					calls := &one.Programs[0].Compartments[0].Allow.Calls
					*calls = append(*calls, policy.Call{Name: name})
				}
				slices.SortFunc(one.Programs[0].Compartments[0].Allow.Calls, func(a, b policy.Call) int { return strings.Compare(a.Name, b.Name) })
				want, err := one.Text()
				if err != nil {
					t.Fatal(err)
				}
				got := textOf(t, read, export(t, format, parse(t, string(want)), Options{}), "/bin/busybox")
				if diff := cmp.Diff(string(want), string(got)); diff != "" {
					t.Errorf("on %s: it comes back as another (-want +got):\n%s", on, diff)
				}
			}
			several := load(t, "app.policy")
			back := parse(t, string(textOf(t, read, export(t, format, several, Options{}), "/usr/sbin/app")))
			if diff := cmp.Diff(callsOf(t, several), callsOf(t, back)); diff != "" {
				t.Errorf("another set comes back (-want +got):\n%s", diff)
			}
		})
	}
}

func callsOf(t *testing.T, p *policy.Policy) []string {
	t.Helper()
	profile, err := Of(p)
	if err != nil {
		t.Fatal(err)
	}
	names, err := profile.names("a test")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestReadErrors: each mistake gets one line that says what it is.
func TestReadErrors(t *testing.T) {
	for _, tt := range []struct {
		read       reader
		text, want string
	}{
		{ReadOCI, `{`, "not an OCI seccomp profile"},
		{ReadOCI, `{"schema": "bulkhead.doctor/v1"}`, `there is no "defaultAction"`},
		{ReadOCI, `{"defaultAction": "SCMP_ACT_ALLOW"}`, "only a profile that lists what is allowed"},
		{ReadOCI, `{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_MIPS"]}`, "architectures [SCMP_ARCH_MIPS]"},
		{ReadOCI, `{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["raed"], "action": "SCMP_ACT_ALLOW"}]}`, `no system call is named "raed"`},
		{ReadOCI, `{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]}`, "for some arguments only"},
		{ReadOCI, `{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": [], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]}`, "for some arguments only"},
		{ReadSystemd, "[Service]\nExecStart=/bin/true\n", "there is no SystemCallFilter="},
		{ReadSystemd, "[Unit]\nSystemCallFilter=read\n", "there is no SystemCallFilter="},
		{ReadSystemd, "[Service]\nSystemCallFilter=~mount\n", "line 2: SystemCallFilter=~ comes first"},
		{ReadSystemd, "[Service]\n\\\nSystemCallFilter=raed\n", `line 2: no system call is named "raed"`},
		{ReadSystemd, "[Service]\nSystemCallFilter=@moutn\n", `unknown group "@moutn"`},
		{ReadSystemd, "[Service]\nSystemCallArchitectures=mips\nSystemCallFilter=read\n", "line 2: SystemCallArchitectures=mips"},
		{ReadSystemd, "[Service]\nnonsense\n", "is no setting"},
		{ReadFlexOS, "name: x\n", "there are no compartments"},
		{ReadFlexOS, "compartments: [{name: a}]\n", `compartment "a" has no library`},
		{ReadFlexOS, "compartments: [{name: a, default: true}]\nlibraries: {x: {compartment: b}}\n", `compartment "b", which is not listed`},
		{ReadFlexOS, "a: [", "not a kraft.yaml"},
	} {
		_, err := tt.read([]byte(tt.text), "/bin/x")
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: error %v, want one line with %q", tt.text, err, tt.want)
		}
	}
	if _, err := ReadOCI([]byte(`{"defaultAction": "SCMP_ACT_ERRNO"}`), "x"); err == nil || !strings.Contains(err.Error(), "absolute path") {
		t.Errorf("a relative program: %v", err)
	}
}

// TestWriteErrors: what a format cannot say is an error, not another filter.
func TestWriteErrors(t *testing.T) {
	const head = "schema = \"bulkhead.policy/v1\"\n"
	program := func(path, arch, call string) string {
		return "[[program]]\npath = \"" + path + "\"\narch = \"" + arch + "\"\n[[program.compartment]]\nname = \"x\"\nallow = [\"" + call + "\"]\n"
	}
	for _, tt := range []struct{ policy, format, want string }{
		{program("/bin/x", "amd64", "read"), "xml", `unknown format "xml": want oci, kubernetes`},
		{program("/bin/x", "amd64", "i386:read"), "oci", "calls of i386 in a program of amd64"},
		{program("/bin/x", "amd64", "i386:read"), "systemd", "calls of i386 in a program of amd64"},
		{program("/bin/x", "amd64", "syscall_4000"), "kubernetes", "syscall_4000, which has no name"},
		{program("/bin/x", "amd64", "read") + program("/bin/y", "arm64", "read"), "oci", "a profile has one architecture"},
		{program("/bin/x", "arm64", "read"), "bpf", "BPF programs are made for amd64 only"},
		{program("/bin/...", "amd64", "read"), "kubernetes", "no name for a Kubernetes object"},
	} {
		err := Write(new(bytes.Buffer), tt.format, parse(t, head+tt.policy), Options{})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", tt.format, err, tt.want)
		}
	}
}

// TestInto: components of a bill of materials that is there get the properties, twice the same as once, and all else
// stays.
func TestInto(t *testing.T) {
	sbom := `{"bomFormat": "CycloneDX", "specVersion": "1.5", "serialNumber": "urn:x", "version": 12345678901234567890,
		"components": [{"type": "file", "name": "app", "properties": [{"name": "other", "value": "1"}]}, {"type": "library", "name": "zlib"}]}`
	once := export(t, "cyclonedx", load(t, "app.policy"), Options{Into: []byte(sbom)})
	if twice := export(t, "cyclonedx", load(t, "app.policy"), Options{Into: once}); !bytes.Equal(once, twice) {
		t.Error("adding again changes something")
	}
	var bom struct {
		SerialNumber string
		Version      json.Number
		Components   []struct {
			Name       string
			Properties []struct{ Name, Value string }
		}
	}
	if err := json.Unmarshal(once, &bom); err != nil {
		t.Fatal(err)
	}
	if bom.SerialNumber != "urn:x" || bom.Version != "12345678901234567890" || len(bom.Components) != 4 {
		t.Errorf("got %+v, want what was there and two components more", bom)
	}
	app := bom.Components[0]
	if app.Properties[0].Name != "other" || !slices.ContainsFunc(app.Properties, func(p struct{ Name, Value string }) bool {
		return p.Name == propertySyscall && p.Value == "execve"
	}) {
		t.Errorf("app has %+v", app.Properties)
	}
	if err := Write(new(bytes.Buffer), "cyclonedx", load(t, "app.policy"), Options{Into: []byte(`{"spdxVersion": "2.3"}`)}); err == nil {
		t.Error("another format is taken for CycloneDX")
	}
}

// numbers yields every number of amd64 up to a margin behind the last.
func numbers() []int {
	last := 0
	for nr := range syscalls.All(syscalls.AMD64) {
		last = nr
	}
	var out []int
	for nr := range last + 40 {
		out = append(out, nr)
	}
	return out
}
