package trace

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bulkhead/internal/attribution"
)

// TestBackends traces the fixtures with and without the kernel part: the documents are the same.
func TestBackends(t *testing.T) {
	gcc := "gcc -O2 "
	simple := func(name, flags string) func(*testing.T) []string {
		return func(t *testing.T) []string {
			return []string{fixtures.Build(t, "backends/"+name, gcc+flags+source(name+".c"))}
		}
	}
	for name, command := range map[string]func(*testing.T) []string{
		"shapes":    simple("shapes", "-pthread "),
		"deep":      simple("deep", "-pthread "),
		"generated": simple("generated", "-pthread "),
		"abis":      simple("abis", "-pthread "),
		"contexts":  simple("contexts", ""),
		"static": func(t *testing.T) []string {
			return []string{fixtures.Build(t, "backends/static", gcc+"-static -pthread "+source("shapes.c"))}
		},
		"callback": func(t *testing.T) []string { return []string{buildCallback(t, "backends", gcc)} },
		"plugins":  buildPlugins,
		"frameless": func(t *testing.T) []string {
			plugin := fixtures.Build(t, "frameless.so", gcc+"-fPIC -shared -DCALL=getuid() "+source("plugin.c"))
			return []string{fixtures.Build(t, "frameless", gcc+source("frameless.c")), plugin}
		},
		"processes": func(t *testing.T) []string {
			program, image := buildProcesses(t)
			return []string{program, image}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var documents []string
			for _, byPtrace := range []bool{false, true} {
				opts := options(t)
				opts.Ptrace = byPtrace
				argv := command(t)
				d := text(t, run(t, opts, argv...))
				if folder := argv[len(argv)-1]; name == "plugins" { // which is a new one each time
					d = strings.ReplaceAll(d, folder, "FOLDER")
				}
				documents = append(documents, d)
			}
			if diff := cmp.Diff(documents[0], documents[1]); diff != "" {
				t.Errorf("kernel part (-) and ptrace (+) differ:\n%s", diff)
			}
		})
	}
}

// text is a document without futex, which depends on who comes first.
func text(t *testing.T, d *attribution.Document) string {
	t.Helper()
	for i := range d.Programs {
		p := &d.Programs[i]
		p.Union = slices.DeleteFunc(p.Union, func(label string) bool { return label == "futex" })
		for j := range p.Compartments {
			c := &p.Compartments[j]
			c.Syscalls = slices.DeleteFunc(c.Syscalls, func(s attribution.Syscall) bool { return s.Name == "futex" })
		}
		for j := range p.Chains {
			c := &p.Chains[j]
			c.Syscalls = slices.DeleteFunc(c.Syscalls, func(label string) bool { return label == "futex" })
		}
		p.Chains = slices.DeleteFunc(p.Chains, func(c attribution.Chain) bool { return len(c.Syscalls) == 0 })
		p.Compartments = slices.DeleteFunc(p.Compartments, func(c attribution.Compartment) bool { return len(c.Syscalls) == 0 })
	}
	var b bytes.Buffer
	if err := d.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestPtrace checks what the sources say against the backend that needs no rights.
func TestPtrace(t *testing.T) {
	opts := Options{Follow: true, Ptrace: true, Cache: cache, Log: t.Logf}
	for name, compiler := range map[string]string{"shapes": "musl-gcc -O2 -static -pthread ", "threads": "g++ -O2 -pthread "} {
		t.Run(name, func(t *testing.T) {
			libc, ending := "musl", ".c"
			if name == "threads" {
				libc, ending = "glibc", ".cpp"
			}
			program := fixtures.Build(t, "ptrace/"+name, compiler+source(name+ending))
			expected := readExpectations(t, source(name+ending), name, libc)
			expected.check(t, run(t, opts, program), libc == "glibc")
		})
	}
	t.Run("attach", func(t *testing.T) {
		doc := attach(t, opts, exec.Command(buildBusy(t)), func() {})
		expected := readExpectations(t, source("busy.c"), "busy", "glibc")
		expected.check(t, doc, true)
	})
	t.Run("no follow", func(t *testing.T) {
		program, image := buildProcesses(t)
		alone := opts
		alone.Follow = false
		if findProgram(run(t, alone, program, image), "image") != nil {
			t.Error("the program of a child is in the document")
		}
	})
}
