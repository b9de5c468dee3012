package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"bulkhead/internal/testenv"
)

// TestStudy: the numbers, sets and figures of docs/study are what its recorded documents give, byte for byte.
func TestStudy(t *testing.T) {
	t.Parallel()
	root, err := testenv.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	checkedIn, made := filepath.Join(root, "docs/study"), t.TempDir()
	if err := os.CopyFS(filepath.Join(made, "documents"), os.DirFS(filepath.Join(checkedIn, "documents"))); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(root, "scripts/study.sh"), "report")
	cmd.Env = append(os.Environ(), "STUDY="+made, "BULKHEAD="+filepath.Join(publicProgram(t), "bulkhead"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("study.sh report: %v: %s", err, out)
	}
	files := 0
	err = filepath.WalkDir(made, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		files++
		name, _ := filepath.Rel(made, path)
		got, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if want, err := os.ReadFile(filepath.Join(checkedIn, name)); err != nil || !bytes.Equal(want, got) {
			t.Errorf("docs/study/%s is not what the documents give (%v): scripts/study.sh report", name, err)
		}
		return nil
	})
	if err != nil || files < 25 {
		t.Errorf("%d files, want documents, figures and tables: %v", files, err)
	}
}
