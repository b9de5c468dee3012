package cfi

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

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

// TestSynthesize gives rules for hand-assembled functions at 0x1000.
func TestSynthesize(t *testing.T) {
	for _, test := range []struct {
		name string
		code []byte
		want string
	}{
		{
			"push rbx; sub $32,rsp; call; add $32,rsp; pop rbx; ret",
			[]byte{0x53, 0x48, 0x83, 0xec, 32, 0xe8, 0, 1, 0, 0, 0x48, 0x83, 0xc4, 32, 0x5b, 0xc3},
			"0x1000 rsp+8\n0x1001 rsp+16 rbx=c-16\n0x1005 rsp+48 rbx=c-16\n0x100e rsp+16 rbx=c-16\n0x100f rsp+8\n0x1010 none\n",
		},
		{
			"push rbp; mov rsp,rbp; sub rax,rsp (alloca); leave; ret",
			[]byte{0x55, 0x48, 0x89, 0xe5, 0x48, 0x29, 0xc4, 0xc9, 0xc3},
			"0x1000 rsp+8\n0x1001 rsp+16 rbp=c-16\n0x1007 rbp+16 rbp=c-16\n0x1008 rsp+8\n0x1009 none\n",
		},
		{
			"enter $16,$0; lea -8(rbp),rsp; pop rbx; pop rbp; ret",
			[]byte{0xc8, 16, 0, 0, 0x48, 0x8d, 0x65, 0xf8, 0x5b, 0x5d, 0xc3},
			"0x1000 rsp+8\n0x1004 rsp+32 rbp=c-16\n0x1008 rsp+24 rbp=c-16\n0x1009 rsp+16 rbp=c-16 rbx=u\n0x100a rsp+8 rbx=u\n0x100b none\n",
		},
		{
			"musl's vfork: pop rdx; syscall; push rdx; ret",
			[]byte{0x5a, 0x0f, 0x05, 0x52, 0xc3},
			"0x1000 rsp+8\n0x1001 rsp+0 ra=rdx\n0x1004 rsp+8\n0x1005 none\n",
		},
		{
			"musl's _start: xor rbp,rbp; and $-16,rsp; call; hlt",
			[]byte{0x48, 0x31, 0xed, 0x48, 0x83, 0xe4, 0xf0, 0xe8, 0, 1, 0, 0, 0xf4},
			"0x1000 rsp+8\n0x1003 end\n0x100d none\n",
		},
		{
			"two paths with different depths: jz 1f; push rax; 1: nop; ret",
			[]byte{0x74, 0x01, 0x50, 0x90, 0xc3},
			"0x1000 rsp+8\n0x1003 none\nlost 0x1003-0x1005 code without call frame information\n",
		},
		{
			"saving by mov: sub $24,rsp; mov rbp,16(rsp); xor ebp,ebp; mov 16(rsp),rbp; add $24,rsp; ret",
			[]byte{0x48, 0x83, 0xec, 24, 0x48, 0x89, 0x6c, 0x24, 16, 0x31, 0xed, 0x48, 0x8b, 0x6c, 0x24, 16, 0x48, 0x83, 0xc4, 24, 0xc3},
			"0x1000 rsp+8\n0x1004 rsp+32\n0x1009 rsp+32 rbp=c-16\n0x1010 rsp+32\n0x1014 rsp+8\n0x1015 none\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			spans, losses := synthesize(gap{addr: 0x1000, offset: 0x1000, code: test.code}, []uint64{0x1000})
			table := new(ehFrame).build(spans)
			table.addLosses(losses)
			if diff := cmp.Diff(test.want, render(table)); diff != "" {
				t.Error(diff)
			}
		})
	}
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

// TestFunctionPointers wants no function where code falls through to an aligned address, nor in the cases of a switch.
func TestFunctionPointers(t *testing.T) {
	code := []byte{
		0x48, 0x83, 0xec, 8, // 0x1000 sub $8,%rsp
		0xff, 0xe0, // 0x1004 jmp *%rax
		0x48, 0x83, 0xc4, 8, 0xc3, // 0x1006 a case: add $8,%rsp; ret
		0x0f, 0x1f, 0x00, // 0x100b nopl (%rax)
		0x41, 0x54, // 0x100e a function: push %r12
		0x48, 0x83, 0xec, 24, // 0x1010 sub $24,%rsp
		0x48, 0x83, 0xc4, 24, 0x41, 0x5c, 0xc3, // 0x1014 add $24,%rsp; pop %r12; ret
	}
	gaps := []gap{{addr: 0x1000, offset: 0x1000, code: code}}
	heads := scanPointers(gaps, true).heads
	pointers := []uint64{0x1010, 0x100e, 0x1000, 0x1006, 0x100b, 0x1014, 0x100e}
	got := functionPointers(pointers, heads, gaps)
	if diff := cmp.Diff([]uint64{0x1000, 0x100e}, got); diff != "" {
		t.Error(diff)
	}
	// Without the pointers the aligned address still begins no function.
	spans, losses := synthesize(gap{addr: 0x100e, offset: 0x100e, code: code[0xe:]}, nil)
	table := new(ehFrame).build(spans)
	table.addLosses(losses)
	if r := table.Lookup(0x1010); r.CFA != KindNone {
		t.Errorf("a rule in the middle of a function: %+v", r)
	}
}
