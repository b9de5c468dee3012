package policy

import (
	"errors"
	"strings"
	"testing"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

// site is a frame in an object, by the object's path; module is a part of it.
type site struct{ object, module, function string }

// see adds an observation with a whole stack, innermost frame first.
func see(p *attribution.ProgramBuilder, evidence attribution.Evidence, label string, stack ...site) {
	abi, name := syscalls.AMD64, label
	if prefix, rest, ok := strings.Cut(label, ":"); ok {
		abi, _ = syscalls.ParseABI(prefix)
		name = rest
	}
	nr, _ := syscalls.Number(abi, name)
	var sites []attribution.Site
	for _, s := range stack {
		conduit := attribution.Conduits{}.Match(s.object) || strings.Contains(s.object, "jemalloc")
		frame := attribution.Site{Object: p.Object(s.object, "", "", conduit), Function: s.function}
		if s.module != "" {
			frame.Part = p.Part(frame.Object, attribution.Part{Name: s.module, Conduit: s.module == attribution.GoStd})
		}
		sites = append(sites, frame)
	}
	origin, via, chain := p.Charge(sites, true)
	o := attribution.Observation{
		Call:   attribution.Call{ABI: attribution.ABI(abi.String()), NR: nr, Name: name},
		Origin: origin, Via: via, Chain: chain, Evidence: evidence, Stack: sites,
	}
	if evidence == attribution.Traced {
		o.Count = 2
	}
	p.Add(o)
}

// example is a server with most of what there is.
func example() *attribution.Document {
	const (
		server   = "/usr/sbin/server"
		app      = "/usr/bin/app"
		jemalloc = "/usr/lib/libjemalloc.so.2"
		tls      = "/usr/lib/libssl.so.3"
		crypto   = "/usr/lib/libcrypto.so.3"
		z        = "/usr/lib/libz.so.1.2.13"
		libc     = "/usr/lib/libc.so.6"
		ld       = "/usr/lib/ld-linux-x86-64.so.2"
		traced   = attribution.Traced
		static   = attribution.Static
	)
	b := attribution.NewBuilder()
	for _, build := range []string{"aa", "bb"} {
		p := b.Program(server, build, attribution.AMD64)
		see(p, traced, "set_tid_address", site{ld, "", ""})
		see(p, traced, "mmap", site{ld, "", ""})
		see(p, traced, "openat", site{libc, "", "fopen"}, site{crypto, "", "f"}, site{tls, "", "f"}, site{server, "", "main"})
		see(p, static, "openat", site{libc, "", "open"}, site{crypto, "", "g"})
		see(p, traced, "mprotect", site{libc, "", "malloc"}, site{tls, "", "f"}, site{server, "", "main"})
		see(p, traced, "read", site{libc, "", "read"}, site{server, "", "main"})
		see(p, static, "execve", site{libc, "", "system"}, site{server, "", "main"})
		see(p, traced, "i386:open", site{server, "", "main"})
		see(p, traced, "getdents64", site{"[anonymous]", "", ""}, site{server, "", "main"})
		see(p, traced, "madvise", site{libc, "", "madvise"}, site{jemalloc, "", "f"}, site{server, "", "main"})
		p.Object(z, "", "", false)
	}
	p := b.Program(app, "cc", attribution.AMD64)
	see(p, traced, "connect", site{app, "std", "net.Dial"}, site{app, "example.com/dial", "Dial"},
		site{app, "example.com/app", "main"})
	see(p, traced, "openat", site{app, "std", "os.Open"}, site{app, "example.com/app", "main"})
	return b.Document()
}

func TestDerive(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Options
	}{
		{"default", Options{Baseline: true}},
		{"none", Options{}},
		{"chain", Options{Baseline: true, Check: Chain}},
		{"static", Options{Baseline: true, Evidence: []attribution.Evidence{attribution.Static}}},
		{"groups", Options{Baseline: true, Groups: []Group{
			{"tls", []string{"libssl.so.*", "libcrypto.so.*"}}, {"net", []string{"example.com/dial"}},
		}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Derive(example(), c.o)
			if err != nil {
				t.Fatal(err)
			}
			text, err := p.Text()
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "derive-"+c.name+".policy", text)
			if v := p.Violations(example()); len(v) > 0 && c.name != "static" {
				t.Errorf("denies what it was derived from: %+v", v)
			}
		})
	}
}

func TestIncomplete(t *testing.T) {
	b := attribution.NewBuilder()
	p := b.Program("/usr/bin/app", "", attribution.AMD64)
	p.LostEvents = 7
	see(p, attribution.Traced, "openat", site{"/usr/bin/app", "", "main"})
	p.Add(attribution.Observation{
		Call: attribution.Call{ABI: attribution.AMD64, NR: 59, Name: "execve"}, Origin: attribution.UnknownID,
		Count: 3, Evidence: attribution.Traced,
	})
	_, err := Derive(b.Document(), Options{Baseline: true})
	var lost *IncompleteError
	if !errors.As(err, &lost) || !strings.Contains(err.Error(), "/usr/bin/app: 7 calls not recorded, 3 calls charged to [unknown]") {
		t.Fatalf("got %v", err)
	}
	policy, err := Derive(b.Document(), Options{Baseline: true, Incomplete: true})
	if err != nil {
		t.Fatal(err)
	}
	r, _ := policy.Rules("/usr/bin/app")
	if !r.Allows(Unknown, syscalls.AMD64, 59) {
		t.Error("[unknown] may not make the call that could not be attributed")
	}
	if !strings.Contains(policy.Head, "INCOMPLETE") || !strings.Contains(policy.Head, "7 calls not recorded") {
		t.Errorf("head: %q", policy.Head)
	}
}

func TestDifferentArchitectures(t *testing.T) {
	b := attribution.NewBuilder()
	for _, arch := range []attribution.ABI{attribution.AMD64, attribution.I386} {
		p := b.Program("/usr/bin/app", "", arch)
		see(p, attribution.Traced, "openat", site{"/usr/bin/app", "", "main"})
	}
	if _, err := Derive(b.Document(), Options{}); err == nil || !strings.Contains(err.Error(), "/usr/bin/app is a program of") {
		t.Errorf("got %v", err)
	}
}

func TestGains(t *testing.T) {
	p := parse(t, `schema = "bulkhead.policy/v1"
[baseline]
allow = ["read"]
[[program]]
path = "/app"
[[program.compartment]]
name = "app"
allow = ["openat", "connect"]
[[program.compartment]]
name = "lib.so"
allow = ["execve", "getpid"]
`)
	// The four that are always allowed weigh 5 (rt_sigreturn 2), read 1, openat 3, connect 2, execve 3, getpid 1.
	g := p.Gains(true)[0]
	if g.Union != (Privilege{"", 9, 15}) || g.Compartments[0] != (Privilege{"app", 7, 11}) || g.Compartments[1] != (Privilege{"lib.so", 7, 10}) {
		t.Errorf("with the baseline: %+v", g)
	}
	g = p.Gains(false)[0]
	if g.Union != (Privilege{"", 4, 9}) || g.Compartments[0] != (Privilege{"app", 2, 5}) {
		t.Errorf("without: %+v", g)
	}
	if r := g.Reduction(); r < 0.444 || r > 0.445 { // 1 - 5/9
		t.Errorf("reduction %f", r)
	}
}

func TestDiff(t *testing.T) {
	a := parse(t, server)
	b := parse(t, strings.NewReplacer(
		`"openat",`+"\n]", `"execve",`+"\n]",
		`["read", "write", "futex"]`, `["read", "futex", "openat"]`,
		`on-exec      = "deny"`, `on-exec = "inherit"`,
		`match = ["[memfd:*]", "[anonymous]"]`, `match = ["[memfd:*]"]`,
		`name    = "sql"`, `name    = "db"`,
	).Replace(server))
	var got []string
	for _, c := range Diff(a, b) {
		if c.Compartment != "sql" && c.Compartment != "db" {
			got = append(got, c.String())
		}
	}
	want := []string{
		"~ on-exec: deny -> inherit",
		"+ [baseline]: openat",
		"~ /usr/sbin/server jit: match: [memfd:*], [anonymous] -> [memfd:*]",
		"+ /usr/sbin/server tls: execve",
		"- [baseline]: write",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestViolationsOfImages(t *testing.T) {
	p, err := Derive(example(), Options{Baseline: true})
	if err != nil {
		t.Fatal(err)
	}
	p.Programs = p.Programs[1:] // not /usr/bin/app
	v := p.Violations(example())
	if len(v) != 1 || v[0].Program != "/usr/bin/app" || v[0].Syscall != "" || v[0].Danger != 3 {
		t.Errorf("on-exec deny: %+v", v)
	}
	p.OnExec = InheritExec
	if v = p.Violations(example()); len(v) != 2 {
		t.Errorf("on-exec inherit: %+v", v)
	}
}
