package profile

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"bulkhead/internal/policy"
	"bulkhead/internal/syscalls"
)

// fuzzReader checks that a reader gives an error or a policy that can be written and read again.
func fuzzReader(f *testing.F, read reader, seeds ...string) {
	for _, seed := range seeds {
		data, err := os.ReadFile(filepath.Join("testdata", seed))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := read(data, "/bin/x")
		if err != nil {
			return
		}
		text, err := p.Text()
		if err != nil {
			t.Fatalf("%v: %q", err, data)
		}
		if _, err := policy.Parse("test", text); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	})
}

func FuzzReadOCI(f *testing.F)     { fuzzReader(f, ReadOCI, "oci.json") }
func FuzzReadSystemd(f *testing.F) { fuzzReader(f, ReadSystemd, "systemd.conf") }
func FuzzReadFlexOS(f *testing.F)  { fuzzReader(f, ReadFlexOS, "kraft.yaml") }

// TestAnyRoundTrip: whatever one compartment may do comes back, and exports again to the same bytes.
func TestAnyRoundTrip(t *testing.T) {
	var all []string
	for _, name := range syscalls.All(syscalls.AMD64) {
		all = append(all, name)
	}
	for format, read := range map[string]reader{"oci": ReadOCI, "systemd": ReadSystemd} {
		rapid.Check(t, func(t *rapid.T) {
			names := rapid.SliceOfNDistinct(rapid.SampledFrom(all), 0, len(all), rapid.ID).Draw(t, "names")
			// What systemd and every program need is always there.
			names = append(names, "execve", "exit", "exit_group", "restart_syscall", "rt_sigreturn")
			slices.Sort(names)
			on := rapid.SampledFrom([]policy.OnViolation{policy.Deny, policy.Kill}).Draw(t, "on violation")
			p, err := onePolicy("/bin/x", syscalls.AMD64, on, slices.Compact(names))
			if err != nil {
				t.Fatal(err)
			}
			var out, again bytes.Buffer
			if err := Write(&out, format, p, Options{}); err != nil {
				t.Fatal(err)
			}
			back, err := read(out.Bytes(), "/bin/x")
			if err != nil {
				t.Fatal(err)
			}
			want, _ := p.Text()
			got, _ := back.Text()
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Fatalf("%s: another policy comes back (-want +got):\n%s", format, diff)
			}
			if err := Write(&again, format, back, Options{}); err != nil || !bytes.Equal(out.Bytes(), again.Bytes()) {
				t.Fatalf("%s: it exports to something else: %v", format, err)
			}
		})
	}
}

// TestKubernetes answers each call as a runtime does that reads the resource's rules.
func TestKubernetes(t *testing.T) {
	for _, file := range []string{"app.policy", "busybox.policy"} {
		p := load(t, file)
		var resource struct {
			APIVersion string `yaml:"apiVersion"`
			Spec       seccompSpec
		}
		decoder := yaml.NewDecoder(bytes.NewReader(export(t, "kubernetes", p, Options{NoRuntime: true})))
		if err := decoder.Decode(&resource); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(resource.APIVersion, "/v1") || resource.Spec.DefaultAction != "SCMP_ACT_ERRNO" {
			t.Errorf("%s: %+v", file, resource)
		}
		got := map[int]unix.Errno{}
		newest := 0
		for _, rule := range resource.Spec.Syscalls {
			for _, name := range rule.Names {
				nr, ok := syscalls.Number(syscalls.AMD64, name)
				if !ok {
					t.Errorf("%s: no system call is named %s", file, name)
				}
				newest = max(newest, nr)
				if rule.ErrnoRet != nil {
					got[nr] = unix.Errno(*rule.ErrnoRet)
				} else {
					got[nr] = 0
				}
			}
		}
		for _, nr := range numbers() {
			if _, ok := got[nr]; !ok && nr < newest {
				got[nr] = unix.EPERM // the default action's
			} else if !ok {
				got[nr] = unix.ENOSYS // runc: newer than all names
			}
		}
		want := wanted(t, p)
		for nr := range want {
			if _, named := syscalls.Name(syscalls.AMD64, nr); !named && nr < newest {
				delete(got, nr) // a gap in the table: no kernel has the call
				delete(want, nr)
			}
		}
		compareAnswers(t, want, got)
	}
}
