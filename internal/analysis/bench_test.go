package analysis

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"bulkhead/internal/objfile"
)

// BenchmarkSummarize measures the cold analysis of single libraries.
func BenchmarkSummarize(b *testing.B) {
	for _, path := range []string{"/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/x86_64-linux-gnu/libcrypto.so.3"} {
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		b.Run(info.Name(), func(b *testing.B) {
			b.SetBytes(info.Size())
			for b.Loop() {
				f, err := objfile.Open(path)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := Summarize(f, nil); err != nil {
					b.Fatal(err)
				}
				f.Close()
			}
		})
	}
}

// BenchmarkLink measures the linking of summaries that are there already, and
// BenchmarkRecall what is left of it when nothing has changed.
func BenchmarkLink(b *testing.B) {
	benchmarkWarm(b, func(path string, opts Options) error {
		r, err := Analyze(path, opts)
		if err == nil {
			err = r.Document().Write(io.Discard)
		}
		return err
	})
}

func BenchmarkRecall(b *testing.B) {
	benchmarkWarm(b, func(path string, opts Options) error {
		d, err := Document(path, opts)
		if err == nil {
			err = d.Write(io.Discard)
		}
		return err
	})
}

func benchmarkWarm(b *testing.B, run func(string, Options) error) {
	for _, path := range []string{"/usr/bin/redis-server", "/usr/bin/python3.11", "/usr/bin/git"} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		b.Run(filepath.Base(path), func(b *testing.B) {
			cache, err := OpenCache(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			opts := Options{Summaries: cache}
			if err := run(path, opts); err != nil { // fills the cache
				b.Fatal(err)
			}
			for b.Loop() {
				if err := run(path, opts); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
