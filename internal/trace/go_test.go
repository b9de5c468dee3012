package trace

import (
	"slices"
	"testing"

	"bulkhead/internal/attribution"
	"bulkhead/internal/testenv"
)

// goOwn are the calls that only one module of the fixture makes.
var goOwn = map[string][]string{
	"example.com/dial": {"socket", "bind", "listen", "accept4", "connect", "getsockname", "setsockopt"},
	"example.com/run":  {"execve", "waitid"},
}

// TestGoModules traces a program of four modules, each of which is charged with its own calls and none of the others'.
func TestGoModules(t *testing.T) {
	for _, v := range []struct{ name, flags string }{
		{"plain", ""}, {"stripped", "-ldflags=-s"}, {"trimpath", "-trimpath"}, {"pie", "-buildmode=pie"},
		{"not-inlined", "-gcflags=all=-l"},
	} {
		t.Run(v.name, func(t *testing.T) {
			opts := options(t)
			opts.EveryChain = true
			doc := run(t, opts, fixtures.GoModules(t, "gomodules-"+v.name, v.flags))
			p := doc.Programs[0]
			if !p.Complete {
				t.Errorf("losses: %+v", p.Losses)
			}
			checkGoModules(t, &p)
			if f := p.Compartment("example.com/files"); !slices.Contains(callNames(f), "openat") {
				t.Errorf("example.com/files is not charged with openat, but with %v", callNames(f))
			}
			via(t, &p, "example.com/files", "openat", "os.Open")
			via(t, &p, "example.com/run", "execve", "os/exec.(*Cmd).Run")
			startup := p.Compartment(attribution.GoRuntime)
			for _, want := range []string{"arch_prctl", "rt_sigaction", "exit_group"} {
				if !slices.Contains(callNames(startup), want) {
					t.Errorf("the runtime is not charged with %s, but with %v", want, callNames(startup))
				}
			}
			checkParts(t, &p)
		})
	}
}

// TestGoModulesCgo traces the program with the C of runtime/cgo and net, which Go's own linker links without .eh_frame.
func TestGoModulesCgo(t *testing.T) {
	testenv.Tool(t, "gcc")
	doc := run(t, options(t), fixtures.GoModules(t, "gomodules-cgo", "CGO_ENABLED=1"))
	p := doc.Programs[0]
	if !p.Complete {
		t.Errorf("losses: %+v", p.Losses)
	}
	checkGoModules(t, &p)
	if !slices.Contains(callNames(p.Compartment(attribution.GoRuntime)), "clone3") {
		t.Errorf("the runtime is not charged with the threads that C starts for it")
	}
}

func callNames(c *attribution.Compartment) []string {
	var names []string
	if c != nil {
		for _, s := range c.Syscalls {
			names = append(names, s.Name)
		}
	}
	return names
}

func checkGoModules(t *testing.T, p *attribution.Program) {
	t.Helper()
	for module, own := range goOwn {
		for _, c := range p.Compartments {
			for _, name := range own {
				if has := slices.Contains(callNames(&c), name); has != (c.Name == module) {
					t.Errorf("%s: charged with %s is %t", c.Name, name, has)
				}
			}
		}
	}
}

func via(t *testing.T, p *attribution.Program, module, call, want string) {
	t.Helper()
	c := p.Compartment(module)
	for i := range c.Syscalls {
		if s := &c.Syscalls[i]; s.Name == call && !slices.Equal(s.Via, []string{want}) {
			t.Errorf("%s: %s via %v, want %s", module, call, s.Via, want)
		}
	}
}

func checkParts(t *testing.T, p *attribution.Program) {
	t.Helper()
	want := map[string]string{
		"example.com/app": "(devel)", "example.com/dial": "v0.2.0", "example.com/files": "v1.2.3", "example.com/run": "v0.0.1",
	}
	for _, part := range p.Objects[0].Parts {
		conduit := part.Name == attribution.GoStd || part.Name == attribution.GoRuntime
		if version, ok := want[part.Name]; part.Conduit != conduit || ok && version != part.Version {
			t.Errorf("part %+v", part)
		}
		delete(want, part.Name)
	}
	if len(want) > 0 {
		t.Errorf("parts that are missing: %v", want)
	}
}
