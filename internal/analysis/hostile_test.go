package analysis

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/internal/objfile"
)

// seeds are small objects for the fuzzers, and the starts of truncations.
func seeds(t testing.TB) [][]byte {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip(err)
	}
	out := filepath.Join(t.TempDir(), "seed.so")
	cmd := exec.Command(gcc, "-O2", "-shared", "-fPIC", "-nostdlib", "-x", "c", "-", "-o", out)
	cmd.Stdin = strings.NewReader(`extern int g(int); int (*const t[])(int) = { g };
int f(int x) { switch (x) { case 1: return g(2); case 2: return t[0](x); case 3: return 7; case 4: return g(9); case 5: return x * 3; } return -1; }`)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, msg)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{data}
}

func summarizeBytes(data []byte) (*Summary, error) {
	f, err := objfile.NewFile(bytes.NewReader(data), int64(len(data)), "fuzz")
	if err != nil {
		return nil, err
	}
	return Summarize(f, nil)
}

// TestTruncated cuts an object at many places: an error or a summary, never a
// panic.
func TestTruncated(t *testing.T) {
	for _, data := range seeds(t) {
		if _, err := summarizeBytes(data); err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(data); n += 61 {
			_, _ = summarizeBytes(data[:n])
		}
	}
}

// TestMutated changes bytes of an object, its headers above all.
func TestMutated(t *testing.T) {
	seed := seeds(t)[0]
	rng := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		data := bytes.Clone(seed)
		for range 1 + rng.IntN(6) {
			data[rng.IntN(len(data))] = byte(rng.IntN(256))
		}
		data[rng.IntN(1024)] = 0xff
		_, _ = summarizeBytes(data)
	}
}

// TestSummaryCodec checks that a summary survives the cache, and a part of one does
// not.
func TestSummaryCodec(t *testing.T) {
	s, err := summarizeBytes(seeds(t)[0])
	if err != nil {
		t.Fatal(err)
	}
	data := encodeSummary(s)
	again, err := decodeSummary(data)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(encodeSummary(again), data) {
		t.Error("a decoded summary differs")
	}
	for i := range data {
		if _, err := decodeSummary(data[:i]); err == nil {
			t.Fatalf("%d bytes of %d are a summary", i, len(data))
		}
	}
}

func FuzzSummarize(f *testing.F) {
	for _, data := range seeds(f) {
		f.Add(data)
	}
	f.Fuzz(func(_ *testing.T, data []byte) {
		if len(data) < 1<<20 {
			_, _ = summarizeBytes(data)
		}
	})
}

// FuzzDecodeSummary reads damaged summaries: an error, or one that encodes again.
func FuzzDecodeSummary(f *testing.F) {
	for _, data := range seeds(f) {
		s, err := summarizeBytes(data)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encodeSummary(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeSummary(data)
		if err != nil {
			return
		}
		if _, err := decodeSummary(encodeSummary(s)); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
	})
}
