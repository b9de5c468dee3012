package bpf

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"bulkhead/internal/filecache"
	"bulkhead/internal/testenv"
)

// TestRelocatedCache loads programs that were kept by the run before, and others when those are of no use.
func TestRelocatedCache(t *testing.T) {
	testenv.Require(t, canTrace())
	dir := t.TempDir()
	cache, err := filecache.Open(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	opts := Options{Follow: true, Cache: cache}
	newTracer(t, opts)
	entries, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(entries) != 1 {
		t.Fatalf("%d entries (%v), want one", len(entries), err)
	}
	content, err := os.ReadFile(entries[0])
	if err != nil {
		t.Fatal(err)
	}
	spec, err := loadTrace()
	if err != nil {
		t.Fatal(err)
	}
	code, err := openRelocated(spec, _TraceBytes, cache)
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Sorted(maps.Keys(spec.Programs))
	if got := slices.Sorted(maps.Keys(code.Programs)); !code.kept || !slices.Equal(got, want) {
		t.Errorf("programs %v of the cache: %v, want %v", got, code.kept, want)
	}
	newTracer(t, opts)

	// Programs that the kernel refuses, as those of another kernel may be.
	for _, p := range code.Programs {
		p.AttachTo = 1
	}
	wrong, err := json.Marshal(code)
	if err != nil {
		t.Fatal(err)
	}
	for _, damaged := range [][]byte{content[:len(content)/2], wrong} {
		if err := os.WriteFile(entries[0], damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		newTracer(t, opts)
	}
	// Fewer programs are another entry.
	delete(spec.Programs, "mark")
	if code, err := openRelocated(spec, _TraceBytes, cache); err != nil || code.kept || len(code.Programs) != len(want)-1 {
		t.Errorf("an object without a program is that with it: %v", err)
	}
}
