package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"bulkhead/internal/testenv"
)

// TestInstall: make install puts the program, a page for each verb and the completions of three shells below a prefix.
func TestInstall(t *testing.T) {
	t.Parallel()
	root, err := testenv.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command(testenv.Tool(t, "make"), "-C", root, "install", "DESTDIR="+dir, "PREFIX=/usr")
	cmd.Env = append(os.Environ(), "DIST="+filepath.Join(t.TempDir(), "dist"), "BULKHEAD="+filepath.Join(publicProgram(t), "bulkhead"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make install: %v: %s", err, out)
	}
	for _, file := range []string{
		"bin/bulkhead", "share/man/man1/bulkhead.1", "share/man/man1/bulkhead-stats.1", "share/man/man1/bulkhead-import-oci.1",
		"share/bash-completion/completions/bulkhead", "share/zsh/site-functions/_bulkhead", "share/fish/vendor_completions.d/bulkhead.fish",
	} {
		if info, err := os.Stat(filepath.Join(dir, "usr", file)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
	completion := filepath.Join(dir, "usr/share/bash-completion/completions/bulkhead")
	cmd = exec.Command(testenv.Tool(t, "bash"), "-c", `source "$1" && complete -p bulkhead`, "bash", completion)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("bash does not take the completions: %v: %s", err, out)
	}
}
