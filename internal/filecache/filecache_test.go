package filecache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}

func write(text string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}
}

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := Replace(path, write("one")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(path, 0o640), os.Symlink("file", link), Replace(link, write("two"))); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v (%v), want 0640 kept", info.Mode(), err)
	}
	failed := errors.New("disk full")
	err := Replace(path, func(w io.Writer) error { _, _ = io.WriteString(w, "half"); return failed })
	if !errors.Is(err, failed) {
		t.Errorf("error %v, want %v", err, failed)
	}
	if data, err := os.ReadFile(link); err != nil || string(data) != "two" {
		t.Errorf("%q (%v) after a failed write, want the content before", data, err)
	}
	if got := entries(t, dir); !slices.Equal(got, []string{"file", "link"}) {
		t.Errorf("left behind: %v", got)
	}
	if err := Replace(filepath.Join(dir, "none", "file"), write("x")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want that there is no such folder", err)
	}
	if err := Replace("/dev/null", write("x")); err != nil {
		t.Error(err)
	}
}

func TestCache(t *testing.T) {
	dir := t.TempDir()
	c, err := Open(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if c.Get("a") != nil {
		t.Error("an entry that was never put")
	}
	data := bytes.Repeat([]byte("x"), 10000)
	// Writers of one entry agree, and leave one file.
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if err := c.Put("a", data); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(c.Get("a"), data) {
				t.Error("another content")
			}
		})
	}
	group.Wait()
	if got := entries(t, dir); !slices.Equal(got, []string{"a"}) {
		t.Errorf("entries %v", got)
	}
	// Damage is noticed, wherever it is.
	whole, err := os.ReadFile(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(whole); i += 7 {
		bad := bytes.Clone(whole)
		bad[i] ^= 0x40
		for _, damaged := range [][]byte{bad, whole[:i]} {
			if err := os.WriteFile(filepath.Join(dir, "b"), damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			if c.Get("b") != nil {
				t.Fatalf("damage at byte %d is not noticed", i)
			}
		}
	}
}

// TestTrim wants the entries used longest ago to go, and abandoned writes.
func TestTrim(t *testing.T) {
	dir := t.TempDir()
	c, err := Open(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour)
	for i, name := range []string{"a", "b", "c", "d", ".left.1"} {
		path := filepath.Join(dir, name)
		at := old.Add(time.Duration(i) * time.Minute)
		if err := errors.Join(c.Put(name, make([]byte, 100)), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	if c.Get("a") == nil { // now the one used last
		t.Error("an entry is not there")
	}
	c.untrimmed.Store(0)
	c.Limit = 3 * blockSize
	if err := c.Put("e", make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if got := entries(t, dir); !slices.Equal(got, []string{"a", "d", "e"}) {
		t.Errorf("after a write over the limit: %v", got)
	}
	// The folder is looked at again before long.
	for i := range 100 {
		if err := c.Put(fmt.Sprintf("f%d", i), make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(entries(t, dir)); got > 4 {
		t.Errorf("%d entries, want 3 or so", got)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", dir)
	if _, err := Open("", "things"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "bulkhead", "things")); err != nil {
		t.Error(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(file, "x"), ""); err == nil {
		t.Error("a cache below a file")
	}
}

func TestFileKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	key := func() string {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return FileKey(info)
	}
	if err := os.WriteFile(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := key(); got != "" {
		t.Errorf("a file that was just written is %s", got)
	}
	time.Sleep(clockGrain + 100*time.Millisecond)
	first := key()
	if first == "" || key() != first {
		t.Errorf("a file that rests is %q, then %q", first, key())
	}
	// The same size and time of modification, as rsync and tar set it.
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(os.WriteFile(path, []byte("two"), 0o600), os.Chtimes(path, info.ModTime(), info.ModTime()))
	if err != nil {
		t.Fatal(err)
	}
	if got := key(); got == first {
		t.Errorf("another content has the same key %s", got)
	}
	time.Sleep(clockGrain + 100*time.Millisecond)
	if got := key(); got == first || got == "" {
		t.Errorf("another content that rests has the key %q", got)
	}
}
