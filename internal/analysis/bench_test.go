package analysis

import (
	"os"
	"testing"

	"bulkhead/internal/dso"
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

// BenchmarkLink measures the linking of summaries that are there already.
func BenchmarkLink(b *testing.B) {
	const program = "/usr/bin/redis-server"
	if _, err := os.Stat(program); err != nil {
		b.Skip(err)
	}
	cache, err := OpenCache(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	opts := Options{Summaries: cache, Loading: dso.Options{}}
	if _, err := Analyze(program, opts); err != nil { // fills the cache
		b.Fatal(err)
	}
	for b.Loop() {
		r, err := Analyze(program, opts)
		if err != nil {
			b.Fatal(err)
		}
		r.Document()
	}
}
