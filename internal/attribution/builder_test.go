package attribution

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// server is a program of four objects: nginx calls libssl, which calls libc.
type server struct {
	*ProgramBuilder
	nginx, ssl, libc, ld ObjectID
}

func newServer(b *Builder) server {
	p := b.Program("/usr/sbin/nginx", "aa11", AMD64)
	return server{
		ProgramBuilder: p,
		nginx:          p.Object("/usr/sbin/nginx", "aa11", "", false),
		ssl:            p.Object("/usr/lib/libssl.so.3", "bb22", "", false),
		libc:           p.Object("/usr/lib/libc.so.6", "cc33", "", true),
		ld:             p.Object("/usr/lib/ld-linux-x86-64.so.2", "dd44", "", true),
	}
}

// observe charges a stack and adds one traced call.
func (s server) observe(c Call, whole bool, stack ...Site) {
	origin, via, chain := s.Charge(stack, whole)
	s.Add(Observation{Call: c, Origin: origin, Via: via, Count: 1, Evidence: Traced, Stack: stack, Chain: chain})
}

func TestCharge(t *testing.T) {
	b := NewBuilder()
	s := newServer(b)
	at := func(o ObjectID, f string) Site { return Site{Object: o, Function: f} }
	unknown := []string(nil)
	tests := []struct {
		name   string
		stack  []Site
		whole  bool
		origin CompartmentID
		via    string
		chain  []string
	}{
		{"empty", nil, true, UnknownID, "", unknown},
		{"library through libc", []Site{at(s.libc, "write"), at(s.ssl, "sock_write"), at(s.nginx, "main"), at(s.libc, "__libc_start_main"), at(s.nginx, "_start")},
			true, s.CompartmentOf(s.ssl), "write", []string{"libssl.so.3", "nginx"}},
		{"via is the function that the origin called", []Site{at(s.libc, "openat"), at(s.libc, "fopen"), at(s.nginx, "main")},
			true, s.CompartmentOf(s.nginx), "fopen", []string{"nginx"}},
		{"direct", []Site{at(s.nginx, "raw"), at(s.nginx, "main")}, true, s.CompartmentOf(s.nginx), "", []string{"nginx"}},
		{"callback does not hide the origin", []Site{at(s.libc, "write"), at(s.ssl, "compare"), at(s.libc, "qsort"), at(s.nginx, "main")},
			true, s.CompartmentOf(s.ssl), "write", []string{"libssl.so.3", "nginx"}},
		{"start-up", []Site{at(s.ld, "__mmap"), at(s.ld, "dl_main"), at(s.ld, "_start")},
			true, s.CompartmentOf(s.ld), "", []string{"ld-linux-x86-64.so.2"}},
		{"outermost conduit", []Site{at(s.libc, "brk"), at(s.libc, "malloc"), at(s.ld, "dl_init"), at(s.ld, "_start")},
			true, s.CompartmentOf(s.ld), "malloc", []string{"ld-linux-x86-64.so.2"}},
		{"conduits of a broken stack", []Site{at(s.libc, "brk"), at(s.libc, "malloc")}, false, UnknownID, "", unknown},
		{"origin of a broken stack", []Site{at(s.libc, "brk"), at(s.ssl, "f")}, false, s.CompartmentOf(s.ssl), "brk", []string{"libssl.so.3"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			origin, via, ids := s.Charge(tt.stack, tt.whole)
			var chain []string
			for _, id := range ids {
				chain = append(chain, ObjectName(s.objects[s.compartments[id].object].key.path))
			}
			if origin != tt.origin || via != tt.via || !cmp.Equal(chain, tt.chain) {
				t.Errorf("origin %d via %q chain %q, want %d %q %q", origin, via, chain, tt.origin, tt.via, tt.chain)
			}
		})
	}
}

// TestUnknownObject: frames in code that nothing is known of are charged to
// [unknown] and count as unattributed.
func TestUnknownObject(t *testing.T) {
	b := NewBuilder()
	s := newServer(b)
	o := s.Object(Unknown, "", "", false)
	s.observe(Call{AMD64, 1, "write"}, true, Site{Object: s.libc, Function: "write", Offset: 1}, Site{Object: o, Offset: 7})
	p := b.Document().Programs[0]
	if p.Losses.Unattributed != 1 || p.Compartment(Unknown).Calls() != 1 || p.Complete {
		t.Errorf("losses %+v, compartments %+v", p.Losses, p.Compartments)
	}
}

func buildExample() *Document {
	b := NewBuilder()
	s := newServer(b)
	write, old := Call{AMD64, 1, "write"}, Call{I386, 4, "write"}
	s.observe(write, true, Site{Object: s.libc, Function: "write", Offset: 16}, Site{Object: s.ssl, Function: "sock_write", Offset: 20}, Site{Object: s.nginx, Function: "", Offset: 0x3100})
	s.observe(write, true, Site{Object: s.libc, Function: "send", Offset: 3}, Site{Object: s.ssl, Function: "a", Offset: 20}, Site{Object: s.ssl, Function: "b", Offset: 20}, Site{Object: s.nginx, Function: "", Offset: 0x3100})
	s.observe(old, true, Site{Object: s.nginx, Function: "legacy", Offset: 2})
	s.observe(Call{ABI: AMD64, NR: 999}, false, Site{Object: s.libc, Function: "syscall", Offset: 25})
	s.Add(Observation{Call: Call{AMD64, 59, "execve"}, Origin: s.CompartmentOf(s.nginx), Evidence: Static})
	s.BrokenStacks = 2
	s.AddUnresolved(Site{Object: s.libc, Function: "syscall", Offset: 23})
	s.AddOpenEnd(Site{Object: s.nginx, Function: "load", Offset: 64}, "dlopen of a computed name")
	// A plugin and its older copy, a group, and memory without a file.
	s.Object("/opt/new/mod.so", "0123456789", "", false)
	s.Object("/opt/old/mod.so", "9876543210", "", false)
	s.Object("/usr/lib/libz.so.1", "", "compression", false)
	s.Object("/memfd:jit (deleted)", "", "", false)
	b.Program("/usr/bin/true", "", AMD64)
	return b.Document()
}

func TestBuilderGolden(t *testing.T) {
	var got bytes.Buffer
	if err := buildExample().Write(&got); err != nil {
		t.Fatal(err)
	}
	checkGolden(t, filepath.Join("testdata", "example.json"), got.Bytes())
}

func checkGolden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
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
}

func TestUniqueNames(t *testing.T) {
	tests := []struct {
		name string
		keys []objectKey
		want []string
	}{
		{"alone", []objectKey{{"/a/x.so", "11"}}, []string{"x.so"}},
		{"two builds", []objectKey{{"/a/x.so", "1111111111"}, {"/b/x.so", "2222222222"}, {"/b/y.so", "33"}},
			[]string{"x.so@11111111", "x.so@22222222", "y.so"}},
		{"copies", []objectKey{{"/a/x.so", "11"}, {"/b/x.so", "11"}}, []string{"x.so@11@/a/x.so", "x.so@11@/b/x.so"}},
		{"without build id", []objectKey{{"/a/x.so", ""}, {"/b/x.so", "1234"}}, []string{"x.so@/a/x.so", "x.so@1234"}},
		{"hostile file name", []objectKey{{"/a/x", "1"}, {"/b/x", "2"}, {"/c/x@1", "3"}}, []string{"x@1@/a/x", "x@2", "x@1@3"}},
		{"memory", []objectKey{{"[vdso]", ""}, {"/memfd:a/b (deleted)", ""}}, []string{"[vdso]", "[memfd:a/b]"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, uniqueNames(tt.keys)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestConduits(t *testing.T) {
	own, err := NewConduits("libstdc++.so.*", "libjemalloc.so.?")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][2]bool{ // default, own
		"/usr/lib/x86_64-linux-gnu/libc.so.6":         {true, true},
		"/lib/libc-2.31.so":                           {true, true},
		"/lib64/ld-linux-x86-64.so.2":                 {true, true},
		"/lib/ld-linux.so.2":                          {true, true},
		"/lib/ld-2.31.so":                             {true, true},
		"/lib/ld-musl-x86_64.so.1":                    {true, true},
		"/usr/lib/x86_64-linux-musl/libc.so":          {true, true},
		"/usr/lib/libpthread.so.0":                    {true, true},
		"/usr/lib/libresolv.so.2":                     {true, true},
		"[vdso]":                                      {true, true},
		"v":                                           {false, false}, // not a class of characters
		"/usr/lib/libstdc++.so.6":                     {false, true},
		"/usr/lib/libjemalloc.so.2":                   {false, true},
		"/usr/lib/libcrypto.so.3":                     {false, false},
		"/usr/lib/libcap.so.2":                        {false, false},
		"/usr/bin/ld":                                 {false, false},
		"/usr/lib/libm.so.6":                          {false, false},
		"/usr/lib/x86_64-linux-gnu/libnss_files.so.2": {false, false},
		"[anonymous]":                                 {false, false},
	} {
		if got := [2]bool{Conduits{}.Match(path), own.Match(path)}; got != want {
			t.Errorf("%s: default, own = %v, want %v", path, got, want)
		}
	}
	for _, bad := range []string{"", "lib[", "/usr/lib/*"} {
		if _, err := NewConduits(bad); err == nil {
			t.Errorf("NewConduits(%q): no error", bad)
		}
	}
}
