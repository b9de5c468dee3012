package disasm

import (
	"bytes"
	"testing"
)

func FuzzDecode(f *testing.F) {
	for _, tt := range shapes {
		f.Add(tt.code)
	}
	f.Fuzz(func(t *testing.T, code []byte) {
		s, err := Scan(code)
		if err != nil {
			if s.Size() != 0 {
				t.Errorf("Scan(% x) = %d and an error", code, s.Size())
			}
			return
		}
		n := s.Size()
		if n < 1 || n > MaxLen || n > len(code) {
			t.Fatalf("Scan(% x) has size %d", code, n)
		}
		if short, err := Scan(code[:n]); err != nil || short != s {
			t.Errorf("Scan(% x) depends on what follows: %v", code[:n], err)
		}
		if _, err := Scan(code[:n-1]); err == nil {
			t.Errorf("Scan(% x) finds an instruction in a part of one", code[:n-1])
		}
		if target, ok := s.Target(0x1000); ok && s.Writes().Has(RSP) && s.Flow() != Call {
			t.Errorf("Scan(% x) jumps to %#x and writes rsp", code[:n], target)
		}
		i, err := Decode(bytes.Clone(code))
		if err != nil {
			return
		}
		if i.Len != n || i.Op == 0 || i.String() == "" {
			t.Errorf("Decode(% x) = %v, length %d, Scan says %d", code, i, i.Len, n)
		}
	})
}
