package cfi

import (
	"path/filepath"
	"testing"

	"bulkhead/internal/disasm"
	"bulkhead/internal/objfile"
)

// openFile opens a real file, or skips.
func openFile(t testing.TB, path string) *objfile.File {
	t.Helper()
	f, err := objfile.Open(path)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestEverySyscall wants a rule at each system call instruction: that is where walks begin.
func TestEverySyscall(t *testing.T) {
	for _, path := range []string{
		"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2", "/usr/lib/x86_64-linux-musl/libc.so",
	} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			f := openFile(t, path)
			table, err := Build(f)
			if err != nil {
				t.Fatal(err)
			}
			text := f.Section(".text")
			code, err := f.Bytes(text)
			if err != nil {
				t.Fatal(err)
			}
			calls := 0
			for pos := 0; pos < len(code); {
				in, err := disasm.Scan(code[pos:])
				if err != nil {
					pos++
					continue
				}
				if in.IsSyscall() {
					calls++
					if r := table.Lookup(text.Offset + uint64(pos)); r.CFA == KindNone {
						t.Errorf("no rule at %#x", text.Addr+uint64(pos))
					}
				}
				pos += in.Size()
			}
			if calls < 40 {
				t.Errorf("only %d system calls", calls)
			}
			t.Logf("%d system calls", calls)
		})
	}
}

// TestSynthesisAgainstCompiler takes the call frame information away from code that has it, and compares what data flow
// finds with what the compiler said, at each instruction. They may differ in epilogues, where the compiler goes on
// naming the slot of a register that has just been restored, and in the choice of the CFA's base.
func TestSynthesisAgainstCompiler(t *testing.T) {
	for _, c := range []struct {
		path        string
		wrong, none float64 // at most this part of the instructions
	}{
		{"/usr/bin/redis-server", 0.005, 0.01},
		{"/lib/x86_64-linux-gnu/libc.so.6", 0.003, 0.03},
		// Landing pads for exceptions, which nothing jumps to, are taken for functions where they are aligned.
		{"/usr/lib/x86_64-linux-gnu/libstdc++.so.6", 0.03, 0.05},
	} {
		t.Run(filepath.Base(c.path), func(t *testing.T) {
			f := openFile(t, c.path)
			known, err := Build(f)
			if err != nil {
				t.Fatal(err)
			}
			nothing := &ehFrame{}
			gaps, err := nothing.gaps(f)
			if err != nil {
				t.Fatal(err)
			}
			starts := functionStarts(f, gaps)
			var total, right, wrong, none int
			for _, g := range gaps {
				spans, _ := synthesize(g, starts)
				table := nothing.build(spans)
				for pos := 0; pos < len(g.code); {
					in, err := disasm.Scan(g.code[pos:])
					if err != nil {
						pos++
						continue
					}
					offset := g.offset + uint64(pos)
					want, got := known.Lookup(offset), table.Lookup(offset)
					if want.CFA == KindRegister && !isPadding(&in) {
						total++
						switch {
						case got.CFA == KindNone:
							none++
							if none%100 == 1 {
								t.Logf("NONE %#x %+v", g.addr+uint64(pos), want)
							}
						case sameUnwind(got, want):
							right++
						default:
							wrong++
							if wrong <= 20 {
								t.Logf("%#x: %+v, compiler: %+v", g.addr+uint64(pos), got, want)
							}
						}
					}
					pos += in.Size()
				}
			}
			t.Logf("%d instructions: %d right, %d wrong, %d without a rule", total, right, wrong, none)
			if float64(wrong) > c.wrong*float64(total) || float64(none) > c.none*float64(total) || total < 10000 {
				t.Errorf("too many differences")
			}
		})
	}
}

// sameUnwind compares the base, unless the two use different registers, which a static comparison cannot.
func sameUnwind(got, want Rule) bool {
	if got.CFA != want.CFA {
		return false
	}
	return got.Reg != want.Reg || got.CFAOffset == want.CFAOffset && got.RAOffset == want.RAOffset
}
