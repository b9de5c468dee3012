package objfile

import (
	"os"
	"path/filepath"
	"testing"
)

// benchFile returns the first file that matches, or skips.
func benchFile(b *testing.B, pattern string) string {
	b.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		b.Skipf("no %s", pattern)
	}
	return paths[0]
}

const libcrypto = "/usr/lib/*/libcrypto.so.3"

func BenchmarkOpen(b *testing.B) {
	path := benchFile(b, libcrypto)
	b.ReportAllocs()
	for b.Loop() {
		f, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

func BenchmarkOpenSymbolizer(b *testing.B) {
	path := benchFile(b, libcrypto)
	b.ReportAllocs()
	for b.Loop() {
		f, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := f.Symbolizer(); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

func BenchmarkRelocations(b *testing.B) {
	path := benchFile(b, libcrypto)
	b.ReportAllocs()
	for b.Loop() {
		f, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := f.Relocations(); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

func BenchmarkLookup(b *testing.B) {
	f, err := Open(benchFile(b, libcrypto))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	z, err := f.Symbolizer()
	if err != nil {
		b.Fatal(err)
	}
	var vaddrs []uint64
	for _, fn := range z.Functions() {
		vaddrs = append(vaddrs, fn.Start)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, _, ok := z.Lookup(vaddrs[i*7919%len(vaddrs)]); !ok {
			b.Fatal("no function")
		}
	}
}

func BenchmarkGoTable(b *testing.B) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		f, err := Open(self)
		if err != nil {
			b.Fatal(err)
		}
		t, err := f.GoTable()
		if err != nil {
			b.Fatal(err)
		}
		var deltas []SPDelta
		for i := range t.Funcs {
			if deltas, err = t.AppendSPDeltas(deltas[:0], &t.Funcs[i]); err != nil {
				b.Fatal(err)
			}
		}
		f.Close()
	}
}
