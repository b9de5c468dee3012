package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/internal/attribution"
)

const straceLog = `10 execve("/opt/app", ["app"], 0x7ffe /* 3 vars */) = 0
 > /lib64/ld-linux-x86-64.so.2(_start+0x8) [0x1ab78]
10 write(1, "x", 1) = 1
 > /lib/libc.so.6(write+0x10) [0xf8350]
 > /opt/libuv.so.1(uv_write+0x1a) [0x11a]
 > /opt/app(_start+0x21) [0x361]
`

// runVerb runs the command line and returns its error and what it wrote to
// --out FILE.
func runVerb(t *testing.T, out string, args ...string) (string, error) {
	t.Helper()
	root := rootCommand()
	root.SetArgs(append(args, "--out", out))
	if err := root.Execute(); err != nil {
		return "", err
	}
	written, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return string(written), nil
}

func TestImportStrace(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	if err := os.WriteFile(log, []byte(straceLog), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		out, want string
		args      []string
	}{
		{"a", "libuv.so.1", nil},
		{"a.csv", "/opt/app,,amd64,libuv.so.1,false,write,amd64,write,1,1,traced,1,1,true\n", nil},
		{"b", "/opt/app,,amd64,app,false,uv_write,amd64,write,1,1,traced,1,1,true\n", []string{"-o", "csv", "--conduit", "libuv.so.*"}},
		{"c", "app          write            1  100.0%  traced    uv_write\n", []string{"--wide", "--conduit", "libuv.so.*"}},
	} {
		got, err := runVerb(t, filepath.Join(dir, tt.out), append([]string{"import", "strace", log}, tt.args...)...)
		if err != nil || !strings.Contains(got, tt.want) {
			t.Errorf("%s %q: error %v, got:\n%s\nwithout %q", tt.out, tt.args, err, got, tt.want)
		}
	}
	out := filepath.Join(dir, "a.json")
	if _, err := runVerb(t, out, "import", "strace", log); err != nil {
		t.Fatal(err)
	}
	if _, err := attribution.ReadFile(out); err != nil {
		t.Error(err)
	}
}

// TestImportErrors: bad input is one line and no file.
func TestImportErrors(t *testing.T) {
	dir := t.TempDir()
	log, text := filepath.Join(dir, "log"), filepath.Join(dir, "text")
	for path, content := range map[string]string{log: straceLog, text: "prose\n"} {
		if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	root := rootCommand()
	root.SetArgs([]string{"import"})
	if err := root.Execute(); err == nil || !strings.Contains(err.Error(), "give a kind of file") {
		t.Errorf("import: error %v", err)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"import", "strace"}, "accepts 1 arg(s)"},
		{[]string{"import", "strace", filepath.Join(dir, "none")}, "no such file"},
		{[]string{"import", "strace", dir}, "is a directory"},
		{[]string{"import", "strace", text}, "not a log of strace"},
		{[]string{"import", "strace", log, "-o", "xml"}, `unknown output format "xml"`},
		{[]string{"import", "strace", log, "--abi", "vax"}, `ABI "vax"`},
		{[]string{"import", "strace", log, "--conduit", "lib["}, `conduit pattern "lib["`},
	} {
		out := filepath.Join(dir, "out")
		_, err := runVerb(t, out, tt.args...)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: error %v, want one line with %q", tt.args, err, tt.want)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%q: wrote a file", tt.args)
		}
	}
}
