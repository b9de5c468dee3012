package policy

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/internal/syscalls"
)

const server = `schema       = "bulkhead.policy/v1"
check        = "origin"
on-violation = "deny"
on-exec      = "deny"
conduits     = ["libjemalloc.so.*"]

[baseline] # allowed to every compartment
allow = ["read", "write", "futex"]

[[program]]
path = "/usr/sbin/server"

[[program.compartment]]
name  = "tls"
match = ["libssl.so.*", "/opt/*/libcrypto.so.3"]
allow = [
  "getrandom", # seeds
  "openat",
]

[[program.compartment]]
name  = "jit"
match = ["[memfd:*]", "[anonymous]"]
allow = ["mprotect"]

[[program.compartment]]
name    = "sql"
symbols = ["sqlite3_*"]
allow   = ["@file-system"]

[[program.compartment]]
name    = "yaml"
modules = ["gopkg.in/yaml.v3", "example.com/all/..."]
allow   = ["i386:getpid"]

[[program.compartment]]
name  = "server"
allow = ["execve", "openat", "syscall_999"]

[[program.compartment]]
name  = "[unknown]"
allow = ["getpid"]
`

func parse(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Parse("test.policy", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func rules(t *testing.T, text, path string) *Rules {
	t.Helper()
	r, ok := parse(t, text).Rules(path)
	if !ok {
		t.Fatalf("%s is not listed", path)
	}
	return r
}

func TestCompartment(t *testing.T) {
	r := rules(t, server, "/usr/sbin/server")
	for path, want := range map[string]string{
		"/usr/lib/x86_64-linux-gnu/libssl.so.3":           "tls",
		"/usr/lib/x86_64-linux-gnu/libssl.so.3 (deleted)": "tls",
		"/opt/x/libcrypto.so.3":                           "tls",
		"/usr/lib/x86_64-linux-gnu/libcrypto.so.3":        "[unknown]",
		"/usr/sbin/server":                                "server",
		"[anonymous]":                                     "jit",
		"/memfd:doublemapper (deleted)":                   "jit",
		"[memfd:x]":                                       "jit",
		"/tmp/[anonymous]":                                "[unknown]",
		"/tmp/[memfd:x]":                                  "[unknown]",
		"/memfd:server (deleted)":                         "jit",
		"[vdso]":                                          "[unknown]",
	} {
		if got := r.Name(r.Compartment(path)); got != want {
			t.Errorf("%s is in %s, want %s", path, got, want)
		}
	}
	parts := r.Parts("/usr/sbin/server")
	if len(parts) != 2 || !parts[0].Symbol("sqlite3_open") || parts[0].Symbol("open") ||
		!parts[1].Module("gopkg.in/yaml.v3") || !parts[1].Module("example.com/all/x/y") || parts[1].Module("example.com") {
		t.Errorf("parts: %+v", parts)
	}
	if c := r.Conduits(); !c.Match("/usr/lib/libjemalloc.so.2") || !c.Match("/usr/lib/libc.so.6") || c.Match("/usr/lib/libz.so.1") {
		t.Error("conduits are wrong")
	}
}

func TestVerdict(t *testing.T) {
	r := rules(t, server, "/usr/sbin/server")
	ids := map[string]ID{}
	for id := range r.Len() {
		ids[r.Name(ID(id))] = ID(id)
	}
	for _, c := range []struct {
		compartment string
		abi         syscalls.ABI
		call        string
		allowed     bool
		class       Class
	}{
		{"tls", syscalls.AMD64, "read", true, AllowedToAll},
		{"[unknown]", syscalls.AMD64, "read", true, AllowedToAll},
		{"[unknown]", syscalls.AMD64, "exit_group", true, AllowedToAll},
		{"tls", syscalls.AMD64, "openat", true, Conditional},
		{"server", syscalls.AMD64, "openat", true, Conditional},
		{"sql", syscalls.AMD64, "openat", true, Conditional},
		{"jit", syscalls.AMD64, "openat", false, Conditional},
		{"tls", syscalls.AMD64, "execve", false, Conditional},
		{"server", syscalls.AMD64, "execve", true, Conditional},
		{"server", syscalls.AMD64, "ptrace", false, AllowedToNone},
		{"server", syscalls.I386, "read", false, AllowedToNone},
		{"yaml", syscalls.I386, "getpid", true, Conditional},
		{"yaml", syscalls.I386, "exit", true, AllowedToAll},
		{"yaml", syscalls.X32, "read", false, AllowedToNone},
		{"yaml", syscalls.X32, "exit", false, AllowedToNone},
		{"[unknown]", syscalls.AMD64, "getpid", true, Conditional},
	} {
		nr, ok := syscalls.Number(c.abi, c.call)
		if !ok {
			t.Fatal(c.call)
		}
		if got := r.Allows(ids[c.compartment], c.abi, nr); got != c.allowed {
			t.Errorf("%s %s:%s: allowed %t", c.compartment, c.abi, c.call, got)
		}
		if got := r.Class(c.abi, nr); got != c.class {
			t.Errorf("%s:%s: class %d, want %d", c.abi, c.call, got, c.class)
		}
	}
	if !r.Allows(ids["server"], syscalls.AMD64, 999) || r.Allows(ids["tls"], syscalls.AMD64, 999) {
		t.Error("syscall_999 is for server alone")
	}
}

func TestErrno(t *testing.T) {
	r := rules(t, server, "/usr/sbin/server")
	for _, c := range []struct {
		abi  syscalls.ABI
		call string
		want unix.Errno
	}{
		{syscalls.AMD64, "openat", unix.EPERM},
		{syscalls.AMD64, "statx", unix.ENOSYS},
		{syscalls.AMD64, "clone3", unix.ENOSYS},
		{syscalls.AMD64, "rseq", unix.ENOSYS},
		{syscalls.I386, "statx", unix.ENOSYS},
		{syscalls.I386, "copy_file_range", unix.EPERM},
		{syscalls.X32, "execve", unix.EPERM},
		{syscalls.X32, "clone3", unix.ENOSYS},
		{syscalls.ARM64, "rseq", unix.ENOSYS},
		{syscalls.ARM64, "preadv2", unix.EPERM},
	} {
		nr, ok := syscalls.Number(c.abi, c.call)
		if !ok {
			t.Fatal(c.call)
		}
		if got := r.Errno(c.abi, nr); got != c.want {
			t.Errorf("%s:%s: %v, want %v", c.abi, c.call, got, c.want)
		}
	}
	if r.Errno(syscalls.AMD64, 9999) != unix.ENOSYS {
		t.Error("a number without a name exists on no kernel that we know")
	}
}

func TestWhy(t *testing.T) {
	r := rules(t, server, "/usr/sbin/server")
	execve, _ := syscalls.Number(syscalls.AMD64, "execve")
	w := r.Why(r.Compartment("/lib/libssl.so.3"), "/lib/libssl.so.3", syscalls.AMD64, execve)
	if want := (Why{"tls", "execve", "test.policy:16", 16, `test.policy:16: add "execve" to allow`}); w != want {
		t.Errorf("got %+v\nwant %+v", w, want)
	}
	w = r.Why(Unknown, "/lib/libz.so.1", syscalls.I386, 11)
	if w.Call != "i386:execve" || !strings.Contains(w.Remedy, `name = "libz.so.1", allow = ["i386:execve"]`) {
		t.Errorf("got %+v", w)
	}
}

func TestErrors(t *testing.T) {
	const head = "schema = \"bulkhead.policy/v1\"\n"
	const program = head + "[[program]]\npath = \"/p\"\n"
	const compartment = program + "[[program.compartment]]\nname = \"c\"\n"
	for _, c := range []struct{ text, want string }{
		{"", "there is no schema"},
		{head, "there is no [[program]]"},
		{"schema = \"bulkhead.policy/v2\"\n[[program]]\npath = \"/p\"", "t:1:10: schema \"bulkhead.policy/v2\": this bulkhead reads"},
		{head + "onviolation = \"deny\"", "t:2:1: unknown key \"onviolation\" in the head of the file: did you mean \"on-violation\"?"},
		{head + "check = \"orign\"", "t:2:9: \"orign\" is not one of origin, chain: did you mean \"origin\"?"},
		{head + "check = 1", "t:2:1: want a string in quotes, not integer"},
		{head + "check = \"chain\"\ncheck = \"chain\"", "t:3:1: "},
		{head + "check = ", "t:2:"},
		{head + "[program]\npath = \"/p\"", "t:2:2: write [[program]] with double brackets"},
		{head + "[[program.compartment]]\nname = \"c\"\nallow = []", "t:2:3: a compartment comes after the [[program]]"},
		{head + "[[programs]]\npath = \"/p\"", "t:2:3: unknown table \"programs\": did you mean \"program\"?"},
		{head + "program = [{path = \"/p\"}]", "t:2:1: write program as a table of its own"},
		{head + "baseline.allow = []", "t:2:1: write baseline as a table of its own"},
		{head + "[baseline]\nallow = [\"raed\"]", "there is no [[program]]"},
		{program + "[baseline]\nallow = [\"raed\"]", "t:5:10: unknown system call \"raed\" of amd64: did you mean \"read\"?"},
		{head + "[[program]]\npath = \"p\"", "t:3:8: path \"p\": write the absolute path"},
		{compartment, "has no allow"},
		{compartment + "allow = [\"open\", \"pread\"]", "t:6:18: unknown system call \"pread\" of amd64: did you mean \"pread64\"?"},
		{compartment + "allow = [\"open\",\n\"open\"]", "t:7:1: \"open\" is in the list already (line 6)"},
		{compartment + "allow = [\"stat64\"]", "\"stat64\" is no system call of amd64, but one of i386"},
		{compartment + "allow = [\"syscall_1\"]", "\"syscall_1\": has a name, write"},
		{compartment + "allow = [\"386:open\"]", "write i386:open"},
		{compartment + "allow = [\"@filesystem\"]", "did you mean \"@file-system\"?"},
		{compartment + "allow = \"open\"", "t:6:1: want a list of strings in [ ], not string"},
		{compartment + "allow = []\nalow = []", "t:7:1: unknown key \"alow\" in [[program.compartment]]: did you mean \"allow\"?"},
		{compartment + "allow = []\nmatch = [\"[x\"]", "t:7:10: pattern \"[x\""},
		{compartment + "allow = []\nmatch = [\"a[\"]", "t:7:10: pattern \"a[\""},
		{compartment + "allow = []\nmatch = []", "match is empty"},
		{compartment + "allow = []\n[[program.compartment]]\nname = \"d\"\nmatch = [\"c\"]\nallow = []", "\"d\" matches c, which compartment \"c\" takes before it"},
		{compartment + "allow = []\n[[program.compartment]]\nname = \"c\"\nallow = []", "t:8:1: the compartment \"c\" is there already (line 5)"},
		{program + "[[program.compartment]]\nname = \"[unknown]\"\nmatch = [\"x\"]\nallow = []", "is what no other matches"},
		{program + "[[program]]\npath = \"/p\"", "t:5:1: the program /p is listed already (line 3)"},
	} {
		p, err := Parse("t", []byte(c.text))
		if err == nil {
			t.Errorf("%q: parsed: %+v", c.text, p)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q:\n got %v\nwant %s", c.text, err, c.want)
		}
	}
}
