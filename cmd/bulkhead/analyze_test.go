package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAnalyzeVerbs(t *testing.T) {
	program, err := filepath.EvalSymlinks("/usr/bin/ls")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", dir)
	doc := filepath.Join(dir, "ls.json")
	for _, test := range []struct {
		args   []string
		status int
	}{
		{[]string{"analyze", "--out", doc, program}, 0},
		{[]string{"explain", doc, filepath.Base(program), "openat"}, 0},
		{[]string{"explain", program, filepath.Base(program), "openat"}, 0},
		{[]string{"explain", doc, filepath.Base(program), "init_module"}, 1},
		{[]string{"explain", doc, "no-such-library.so", "openat"}, exitUsage},
		{[]string{"explain", doc, filepath.Base(program), "no_such_call"}, exitUsage},
		{[]string{"diff", doc, program}, 0},
		{[]string{"diff", program, "/usr/bin/curl"}, 1},
		{[]string{"analyze", "/no/such/program"}, exitUsage},
		{[]string{"analyze", "/etc/passwd"}, exitUsage},
		{[]string{"analyze"}, exitUsage},
	} {
		if test.args[0] == "diff" {
			if _, err := os.Stat(test.args[2]); err != nil {
				continue
			}
		}
		root := rootCommand()
		root.SetArgs(test.args)
		if got := run(root); got != test.status {
			t.Errorf("bulkhead %s: status %d, want %d", strings.Join(test.args, " "), got, test.status)
		}
	}
}
