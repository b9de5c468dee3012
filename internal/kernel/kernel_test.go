package kernel

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"bulkhead/internal/testenv"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// lookVariable makes the test binary print a survey as JSON, so that it can be
// looked at from another user or another kernel.
const lookVariable = "KERNEL_TEST_LOOK"

func TestMain(m *testing.M) {
	if os.Getenv(lookVariable) == "" {
		os.Exit(m.Run())
	}
	start := time.Now()
	survey := Look()
	fmt.Fprintf(os.Stderr, "# probed in %v\n", time.Since(start).Round(time.Millisecond))
	if err := json.NewEncoder(os.Stdout).Encode(survey); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func readSurvey(t *testing.T, output string) *Survey {
	t.Helper()
	i := strings.IndexByte(output, '{')
	if i < 0 {
		t.Fatalf("no survey in the output:\n%s", output)
	}
	survey := new(Survey)
	decoder := json.NewDecoder(strings.NewReader(output[i:]))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(survey); err != nil {
		t.Fatalf("%v in:\n%s", err, output)
	}
	return survey
}

func TestLook(t *testing.T) {
	start, busy := time.Now(), processorTime(t)
	survey := Look()
	t.Logf("took %v", time.Since(start))
	// Not the time on the clock, which other programs on this machine share.
	if took := processorTime(t) - busy; took > time.Second {
		t.Errorf("probing took %v of processor time, want less than a second", took)
	}
	if len(survey.Probes) != len(probes) || len(survey.Verdicts) != len(Uses) {
		t.Fatalf("%d results and %d verdicts, want %d and %d", len(survey.Probes), len(survey.Verdicts), len(probes), len(Uses))
	}
	if !slices.IsSortedFunc(survey.Probes, func(a, b Result) int { return strings.Compare(string(a.Name), string(b.Name)) }) {
		t.Error("results are not sorted by name")
	}
	for _, result := range survey.Probes {
		t.Logf("%-16s available %-5t probed %-5t %s", result.Name, result.Available, result.Probed, result.Detail)
		checkResult(t, result)
	}
	for _, use := range Uses {
		if works := Require(use) == nil; works != survey.Works(use) {
			t.Errorf("Require(%s) is nil: %t, but the survey's verdict is %t", use, works, survey.Works(use))
		}
	}
}

func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func checkResult(t *testing.T, r Result) {
	t.Helper()
	if r.Detail == "" {
		t.Errorf("%s: no detail", r.Name)
	}
	if r.Available {
		if !r.Probed || r.Remedy != "" || r.Err() != nil {
			t.Errorf("%s is available, but probed %t, remedy %q, error %v", r.Name, r.Probed, r.Remedy, r.Err())
		}
		return
	}
	var notSupported *NotSupported
	if !errors.As(r.Err(), &notSupported) || !errors.Is(r.Err(), errors.ErrUnsupported) {
		t.Errorf("%s is not available, but its error is %v", r.Name, r.Err())
	} else if notSupported.Feature != r.Name || notSupported.Remedy != r.Remedy {
		t.Errorf("%s: the error tells of %s with remedy %q", r.Name, notSupported.Feature, notSupported.Remedy)
	}
}

// lookAs probes as nobody with the given ambient capabilities.
func lookAs(t *testing.T, ambient ...uintptr) *Survey {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("becoming another user needs root: run the tests as root")
	}
	// The folder that go test builds in is closed to other users.
	dir, err := os.MkdirTemp("", "kernel-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program := filepath.Join(dir, "kernel.test")
	content, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(program, content, 0o755)); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program)
	command.Dir = "/"
	command.Env = []string{lookVariable + "=1"}
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: ambient}
	output, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	return readSurvey(t, string(output))
}

// An unprivileged user is told the cause and its remedy, and gets no verdict on
// what could not be looked at.
func TestLookUnprivileged(t *testing.T) {
	survey := lookAs(t)
	if survey.UID != 65534 {
		t.Fatalf("probed as user %d", survey.UID)
	}
	for _, use := range []Use{Trace, KernelKill, KernelDeny} {
		if survey.Works(use) {
			t.Errorf("%s is said to work without privileges", use)
		}
	}
	if !survey.Works(Supervisor) {
		t.Errorf("the supervisor needs no privileges, but misses %v", survey.verdict(Supervisor).Missing)
	}
	capabilities := survey.Result(Capabilities)
	if capabilities.Available || !strings.Contains(capabilities.Remedy, "setcap cap_bpf,cap_perfmon") {
		t.Errorf("capabilities: available %t, remedy %q", capabilities.Available, capabilities.Remedy)
	}
	for _, feature := range []Feature{TraceSyscalls, FindVMA, Loop, RingBuffer, LSMProgram, Fentry, CgroupSock} {
		if result := survey.Result(feature); result.Probed || result.Available || result.Remedy != "" {
			t.Errorf("%s: %+v, want it not probed", feature, result)
		}
	}
	causes := survey.verdict(Trace).Missing
	if len(causes) == 0 || causes[0].Feature != Capabilities || causes[0].Remedy == "" {
		t.Errorf("trace misses %+v, want capabilities first", causes)
	}
}

// CAP_BPF and CAP_PERFMON are all that tracing takes.
func TestLookWithCapabilities(t *testing.T) {
	if err := Require(Trace); err != nil {
		t.Skip(err)
	}
	survey := lookAs(t, unix.CAP_BPF, unix.CAP_PERFMON)
	if !survey.Works(Trace) {
		t.Errorf("trace misses %+v", survey.verdict(Trace).Missing)
	}
	if sock := survey.Result(CgroupSock); sock.Available || !strings.Contains(sock.Remedy, "cap_net_admin") {
		t.Errorf("cgroup-sock without cap_net_admin: %+v", sock)
	}
}

// Debian's own list of security modules has no bpf: LSM programs attach there,
// but the kernel never calls them.
func TestLookInVMWithoutLSM(t *testing.T) {
	files := map[string]string{"/kernel.test": testenv.BuildTest(t, "internal/kernel")}
	command := []string{"env", lookVariable + "=1", "/kernel.test"}
	output, _ := testenv.BootVM(t, testenv.Kernel61, files, command, 2*time.Minute, "lsm=landlock,lockdown,yama")
	survey := readSurvey(t, output)
	if !survey.Works(Trace) || !survey.Works(KernelKill) || survey.Works(KernelDeny) {
		t.Errorf("verdicts %+v, want all but deny to work", survey.Verdicts)
	}
	const want = "boot with the kernel parameter lsm=lockdown,yama,landlock,bpf "
	for _, feature := range []Feature{LSMList, LSMProgram} {
		result := survey.Result(feature)
		if result.Available || !result.Probed || !sameList(result.Remedy, want) {
			t.Errorf("%s: %+v, want remedy %q", feature, result, want)
		}
	}
}

// sameList compares lsm= parameters up to the order that the kernel reports.
func sameList(remedy, want string) bool {
	list := func(s string) []string {
		_, rest, _ := strings.Cut(s, "lsm=")
		names, _, _ := strings.Cut(rest, " ")
		return slices.Sorted(slices.Values(strings.Split(names, ",")))
	}
	return slices.Equal(list(remedy), list(want))
}

// A verdict names causes only, so a use has to need what its features need.
func TestPrerequisitesAreNeeded(t *testing.T) {
	for i, needed := range probes {
		for _, before := range needed.after {
			j := slices.IndexFunc(probes, func(other probe) bool { return other.feature == before })
			if j < 0 || j >= i {
				t.Fatalf("%s comes after %s, which is not probed before it", needed.feature, before)
			}
			for _, use := range needed.uses {
				if !slices.Contains(probes[j].uses, use) {
					t.Errorf("%s is needed for %s, but %s, which it takes, is not", needed.feature, use, before)
				}
			}
		}
	}
}

func TestConclude(t *testing.T) {
	missing := func(feature Feature, err error) Result {
		p := &prober{results: map[Feature]Result{}}
		i := slices.IndexFunc(probes, func(probe probe) bool { return probe.feature == feature })
		broken := probes[i]
		broken.after = nil
		broken.run = func(*prober) (string, error) { return "", err }
		return p.run(broken)
	}
	present := func(feature Feature, uses ...Use) Result {
		return Result{Name: feature, Available: true, Probed: true, NeededFor: uses}
	}
	refused := remedy(errors.New("refused"), "ask again")
	for _, test := range []struct {
		name    string
		results []Result
		use     Use
		want    Verdict
	}{
		{"all there", []Result{present(BPF, Trace)}, Trace, Verdict{Trace, true, []Missing{}}},
		{"not needed", []Result{missing(Fentry, refused)}, KernelDeny, Verdict{KernelDeny, true, []Missing{}}},
		{"needed by another", []Result{missing(LSMProgram, refused)}, KernelKill, Verdict{KernelKill, true, []Missing{}}},
		{"needed", []Result{present(BPF, Trace), missing(LSMProgram, refused)}, KernelDeny,
			Verdict{KernelDeny, false, []Missing{{LSMProgram, "refused", "ask again"}}}},
		{"consequences are not causes", []Result{missing(BPF, refused), missing(Loop, &missingPrerequisite{BPF})}, Trace,
			Verdict{Trace, false, []Missing{{BPF, "refused", "ask again"}}}},
		{"cannot know is not available", []Result{missing(BPFJIT, &unknown{errors.New("hidden")})}, Trace,
			Verdict{Trace, false, []Missing{{BPFJIT, "hidden", ""}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, conclude(test.use, test.results)); diff != "" {
				t.Errorf("verdict (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNotSupported(t *testing.T) {
	err := fmt.Errorf("trace: %w", &NotSupported{Loop, Version{5, 17}, "boot Linux 5.17 or later", unix.EINVAL})
	const want = "trace: bpf-loop is not supported (in Linux since 5.17): invalid argument; remedy: boot Linux 5.17 or later"
	if err.Error() != want {
		t.Errorf("error is %q, want %q", err, want)
	}
	if !errors.Is(err, errors.ErrUnsupported) || !errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
		t.Errorf("%v does not match its kind and cause", err)
	}
}

func TestWriteText(t *testing.T) {
	for _, name := range []string{"all", "kill-only", "unprivileged"} {
		t.Run(name, func(t *testing.T) {
			input, err := os.ReadFile(filepath.Join("testdata", name+".json"))
			if err != nil {
				t.Fatal(err)
			}
			survey := readSurvey(t, string(input))
			var plain, coloured strings.Builder
			if err := errors.Join(survey.WriteText(&plain, false), survey.WriteText(&coloured, true)); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(plain.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), plain.String()); diff != "" {
				t.Errorf("text (-want +got):\n%s", diff)
			}
			if strings.Contains(plain.String(), "\x1b") {
				t.Error("plain text has escapes")
			}
			stripped := strings.NewReplacer(green, "", red, "", faint, "", bold, "", reset, "").Replace(coloured.String())
			if stripped == coloured.String() || stripped != plain.String() {
				t.Error("colours change more than colours")
			}
		})
	}
}

func TestParseVersion(t *testing.T) {
	for release, want := range map[string]Version{
		"6.1.0-56-cloud-amd64": {6, 1},
		"5.17":                 {5, 17},
		"6.12.117+deb12":       {6, 12},
		"7.0-rc1":              {7, 0},
		"":                     {},
		"six":                  {},
	} {
		got, err := parseVersion(release)
		if got != want || (err != nil) != (want == Version{}) {
			t.Errorf("parseVersion(%q) = %v, %v; want %v", release, got, err, want)
		}
	}
	for _, test := range []struct {
		a, b Version
		want bool
	}{{Version{5, 17}, Version{6, 1}, true}, {Version{6, 1}, Version{5, 17}, false}, {Version{5, 9}, Version{5, 17}, true}, {Version{5, 17}, Version{5, 17}, false}} {
		if got := test.a.Before(test.b); got != test.want {
			t.Errorf("%v before %v: %t, want %t", test.a, test.b, got, test.want)
		}
	}
}

func TestLSMBootRemedy(t *testing.T) {
	got := lsmBootRemedy([]string{"capability", "landlock", "lockdown", "yama"})
	if want := "boot with the kernel parameter lsm=landlock,lockdown,yama,bpf "; !strings.HasPrefix(got, want) {
		t.Errorf("remedy is %q, want it to start with %q", got, want)
	}
}

func TestCgroup2Mount(t *testing.T) {
	for _, test := range []struct{ name, mountinfo, want string }{
		{"unified", "25 21 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n", "/sys/fs/cgroup"},
		{"hybrid", "30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n", "/sys/fs/cgroup/unified"},
		{"none", "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n", ""},
		{"short lines", " - cgroup2 x\n\n-\n", ""},
	} {
		got, found := cgroup2Mount([]byte(test.mountinfo))
		if got != test.want || found != (test.want != "") {
			t.Errorf("%s: mounted at %q (%t), want %q", test.name, got, found, test.want)
		}
	}
}

func TestStackEnd(t *testing.T) {
	const maps = "7ffff7fc9000-7ffff7fcb000 r-xp 00000000 00:00 0 [vdso]\n7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0 [stack]\n"
	if got, err := stackEnd(maps); got != 0x7ffffffff000 || err != nil {
		t.Errorf("the stack ends at %#x, %v", got, err)
	}
	for _, bad := range []string{"", "[stack]\n", "10-zz rw [stack]\n", "7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0 [heap]\n"} {
		if got, err := stackEnd(bad); err == nil {
			t.Errorf("stackEnd(%q) = %#x, want an error", bad, got)
		}
	}
}
