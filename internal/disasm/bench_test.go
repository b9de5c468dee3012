package disasm

import (
	"debug/elf"
	"os"
	"testing"
)

func text(t testing.TB, path string) []byte {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Skip(err)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	code, err := f.Section(".text").Data()
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func BenchmarkScan(b *testing.B) {
	code := text(b, corpus[0])
	b.SetBytes(int64(len(code)))
	b.ReportAllocs()
	for b.Loop() {
		for pos := 0; pos < len(code); {
			s, err := Scan(code[pos:])
			if err != nil {
				pos++
				continue
			}
			pos += s.Size()
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	code := text(b, corpus[0])
	b.SetBytes(int64(len(code)))
	b.ReportAllocs()
	for b.Loop() {
		for pos := 0; pos < len(code); {
			i, err := Decode(code[pos:])
			if err != nil {
				pos++
				continue
			}
			pos += i.Len
		}
	}
}
