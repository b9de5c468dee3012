package disasm

import (
	"testing"

	"golang.org/x/arch/x86/x86asm"
)

// shapes has one instruction a line; the bytes are what GNU as makes of text.
var shapes = []struct {
	text   string
	code   []byte
	op     x86asm.Op
	flow   Flow
	reads  RegSet
	writes RegSet
}{
	{"endbr64", []byte{0xf3, 0x0f, 0x1e, 0xfa}, ENDBR64, Next, 0, 0},
	{"endbr32", []byte{0xf3, 0x0f, 0x1e, 0xfb}, ENDBR32, Next, 0, 0},
	{"rdsspq rcx", []byte{0xf3, 0x48, 0x0f, 0x1e, 0xc9}, RDSSPQ, Next, cx, cx},
	{"rdsspd eax", []byte{0xf3, 0x0f, 0x1e, 0xc8}, RDSSPD, Next, ax, ax},
	{"incsspq rax", []byte{0xf3, 0x48, 0x0f, 0xae, 0xe8}, INCSSPQ, Next, ax, 0},
	{"adcx rax, rbx", []byte{0x66, 0x48, 0x0f, 0x38, 0xf6, 0xc3}, ADCX, Next, ax | bx, ax},
	{"adox rax, [rbx]", []byte{0xf3, 0x48, 0x0f, 0x38, 0xf6, 0x03}, ADOX, Next, ax | bx, ax},
	{"vzeroupper", []byte{0xc5, 0xf8, 0x77}, x86asm.VZEROUPPER, Next, 0, 0},
	{"vzeroall", []byte{0xc5, 0xfc, 0x77}, x86asm.VZEROALL, Next, 0, 0},

	{"call .+5", []byte{0xe8, 0, 0, 0, 0}, x86asm.CALL, Call, AllRegs, AllRegs},
	{"call rax", []byte{0xff, 0xd0}, x86asm.CALL, CallIndirect, AllRegs, AllRegs},
	{"bnd jmp [rip+1]", []byte{0xf2, 0xff, 0x25, 1, 0, 0, 0}, x86asm.JMP, JumpIndirect, 0, 0},
	{"notrack jmp rdx", []byte{0x3e, 0xff, 0xe2}, x86asm.JMP, JumpIndirect, dx, 0},
	{"jmp .-2", []byte{0xeb, 0xfc}, x86asm.JMP, Jump, 0, 0},
	{"je .+6", []byte{0x0f, 0x84, 0, 0, 0, 0}, x86asm.JE, CondJump, 0, 0},
	{"jrcxz .+2", []byte{0xe3, 0}, x86asm.JRCXZ, CondJump, cx, 0},
	{"loop .+2", []byte{0xe2, 0}, x86asm.LOOP, CondJump, cx, cx},
	{"ret", []byte{0xc3}, x86asm.RET, Ret, sp, sp},
	{"rep ret", []byte{0xf3, 0xc3}, x86asm.RET, Ret, sp, sp},
	{"ret 8", []byte{0xc2, 8, 0}, x86asm.RET, Ret, sp, sp},
	{"syscall", []byte{0x0f, 0x05}, x86asm.SYSCALL, Syscall, AllRegs, ax | cx | 1<<R11},
	{"sysenter", []byte{0x0f, 0x34}, x86asm.SYSENTER, Syscall, AllRegs, AllRegs},
	{"int 0x80", []byte{0xcd, 0x80}, x86asm.INT, Syscall, AllRegs, ax | Set(R8, R9, R10, R11)},
	{"int 0x29", []byte{0xcd, 0x29}, x86asm.INT, Trap, 0, 0},
	{"int3", []byte{0xcc}, x86asm.INT, Trap, 0, 0},
	{"ud2", []byte{0x0f, 0x0b}, x86asm.UD2, Trap, 0, 0},
	{"hlt", []byte{0xf4}, x86asm.HLT, Trap, 0, 0},
	{"xbegin .+6", []byte{0xc7, 0xf8, 0, 0, 0, 0}, x86asm.XBEGIN, CondJump, ax, ax},

	{"push rbp", []byte{0x55}, x86asm.PUSH, Next, bp | sp, sp},
	{"pop r12", []byte{0x41, 0x5c}, x86asm.POP, Next, sp, sp | 1<<R12},
	{"leave", []byte{0xc9}, x86asm.LEAVE, Next, bp, bp | sp},
	{"sub rsp, 8", []byte{0x48, 0x83, 0xec, 8}, x86asm.SUB, Next, sp, sp},
	{"cmp rsp, 8", []byte{0x48, 0x83, 0xfc, 8}, x86asm.CMP, Next, sp, 0},
	{"mov eax, 59", []byte{0xb8, 59, 0, 0, 0}, x86asm.MOV, Next, 0, ax},
	{"mov al, 1", []byte{0xb0, 1}, x86asm.MOV, Next, ax, ax},
	{"mov ah, 1", []byte{0xb4, 1}, x86asm.MOV, Next, ax, ax},
	{"mov spl, 1", []byte{0x40, 0xb4, 1}, x86asm.MOV, Next, sp, sp},
	{"mov ax, bx", []byte{0x66, 0x89, 0xd8}, x86asm.MOV, Next, ax | bx, ax},
	{"mov eax, ebx", []byte{0x89, 0xd8}, x86asm.MOV, Next, bx, ax},
	{"mov fs:[rbx+r9*4+1], ch", []byte{0x64, 0x42, 0x88, 0x6c, 0x8b, 1}, x86asm.MOV, Next, bx | bp | 1<<R9, 0},
	{"movabs rax, 1", []byte{0x48, 0xb8, 1, 0, 0, 0, 0, 0, 0, 0}, x86asm.MOV, Next, 0, ax},
	{"lea rdi, [rip-4]", []byte{0x48, 0x8d, 0x3d, 0xfc, 0xff, 0xff, 0xff}, x86asm.LEA, Next, 0, di},
	{"xchg rcx, rax", []byte{0x48, 0x91}, x86asm.XCHG, Next, ax | cx, ax | cx},
	{"xchg r8, rax", []byte{0x49, 0x90}, x86asm.XCHG, Next, ax | 1<<R8, ax | 1<<R8},
	{"nop", []byte{0x90}, x86asm.NOP, Next, 0, 0},
	{"pause", []byte{0xf3, 0x90}, x86asm.PAUSE, Next, 0, 0},
	{"nop [rax+0]", []byte{0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0}, x86asm.NOP, Next, ax, 0},
	{"cdqe", []byte{0x48, 0x98}, x86asm.CDQE, Next, ax, ax},
	{"cqo", []byte{0x48, 0x99}, x86asm.CQO, Next, ax, dx},
	{"mul rcx", []byte{0x48, 0xf7, 0xe1}, x86asm.MUL, Next, ax | cx, ax | dx},
	{"div bl", []byte{0xf6, 0xf3}, x86asm.DIV, Next, ax | bx, ax},
	{"rep stosq", []byte{0xf3, 0x48, 0xab}, x86asm.STOSQ, Next, ax | cx | di, cx | di},
	{"movsb", []byte{0xa4}, x86asm.MOVSB, Next, si | di, si | di},
	{"cpuid", []byte{0x0f, 0xa2}, x86asm.CPUID, Next, ax | cx, ax | bx | cx | dx},
	{"rdtscp", []byte{0x0f, 0x01, 0xf9}, x86asm.RDTSCP, Next, 0, ax | cx | dx},
	{"xgetbv", []byte{0x0f, 0x01, 0xd0}, x86asm.XGETBV, Next, cx, ax | dx},
	{"xsavec [rsp+64]", []byte{0x0f, 0xc7, 0x64, 0x24, 0x40}, x86asm.XSAVEC, Next, ax | dx | sp, 0},
	{"cmpxchg16b [rdi]", []byte{0x48, 0x0f, 0xc7, 0x0f}, x86asm.CMPXCHG16B, Next, ax | bx | cx | dx | di, ax | dx},
	{"lock cmpxchg [rdi], esi", []byte{0xf0, 0x0f, 0xb1, 0x37}, x86asm.CMPXCHG, Next, ax | si | di, ax},
	{"rdrand rdx", []byte{0x48, 0x0f, 0xc7, 0xf2}, x86asm.RDRAND, Next, 0, dx},
	{"tzcnt eax, ecx", []byte{0xf3, 0x0f, 0xbc, 0xc1}, x86asm.TZCNT, Next, ax | cx, ax},
	{"crc32 eax, bl", []byte{0xf2, 0x0f, 0x38, 0xf0, 0xc3}, x86asm.CRC32, Next, ax | bx, ax},
	{"movbe rax, [rsi]", []byte{0x48, 0x0f, 0x38, 0xf0, 0x06}, Opaque, Next, si, ax},
	{"movbe [rsi], rax", []byte{0x48, 0x0f, 0x38, 0xf1, 0x06}, Opaque, Next, si | ax, 0},
	{"sha256msg1 xmm0, xmm1", []byte{0x0f, 0x38, 0xcc, 0xc1}, x86asm.SHA256MSG1, Next, 0, 0},
	{"pmovmskb eax, xmm0", []byte{0x66, 0x0f, 0xd7, 0xc0}, x86asm.PMOVMSKB, Next, ax, ax},
	{"movq rax, xmm0", []byte{0x66, 0x48, 0x0f, 0x7e, 0xc0}, x86asm.MOVQ, Next, 0, ax},
	{"movq xmm0, xmm1", []byte{0xf3, 0x0f, 0x7e, 0xc1}, x86asm.MOVQ, Next, 0, 0},
	{"cvttsd2si rax, xmm0", []byte{0xf2, 0x48, 0x0f, 0x2c, 0xc0}, x86asm.CVTTSD2SI, Next, 0, ax},
	{"fnstsw ax", []byte{0xdf, 0xe0}, x86asm.FNSTSW, Next, ax, ax},

	{"andn rax, rbx, rcx", []byte{0xc4, 0xe2, 0xe0, 0xf2, 0xc1}, x86asm.ANDN, Next, bx | cx, ax},
	{"blsr rbx, rax", []byte{0xc4, 0xe2, 0xe0, 0xf3, 0xc8}, x86asm.BLSR, Next, ax, bx},
	{"mulx rax, rbx, rcx", []byte{0xc4, 0xe2, 0xe3, 0xf6, 0xc1}, x86asm.MULX, Next, cx | dx, ax | bx},
	{"rorx rax, rcx, 1", []byte{0xc4, 0xe3, 0xfb, 0xf0, 0xc1, 1}, x86asm.RORX, Next, cx, ax},
	{"vmovdqu ymm1, [rip+1]", []byte{0xc5, 0xfe, 0x6f, 0x0d, 1, 0, 0, 0}, Opaque, Next, 0, 0},
	{"vpmovmskb eax, ymm0", []byte{0xc5, 0xfd, 0xd7, 0xc0}, Opaque, Next, 0, ax},
	{"vpgatherdd xmm0, [rax+xmm4], xmm1", []byte{0xc4, 0xe2, 0x71, 0x90, 0x04, 0x20}, Opaque, Next, ax, 0},
	{"vmovdqu64 zmm0, [rdi+r9]", []byte{0x62, 0xb1, 0xfe, 0x48, 0x6f, 0x04, 0x0f}, Opaque, Next, di | 1<<R9, 0},
	{"vpbroadcastb ymm16, esi", []byte{0x62, 0xe2, 0x7d, 0x28, 0x7a, 0xc6}, Opaque, Next, si, 0},
	{"kmovd eax, k0", []byte{0xc5, 0xfb, 0x93, 0xc0}, Opaque, Next, 0, ax},
	{"vprotd xmm4, xmm4, 16", []byte{0x8f, 0xe8, 0x78, 0xc2, 0xe4, 0x10}, Opaque, Next, 0, 0},
}

func TestShapes(t *testing.T) {
	for _, tt := range shapes {
		i, err := Decode(tt.code)
		if err != nil {
			t.Errorf("%s: % x: %v", tt.text, tt.code, err)
			continue
		}
		if i.Len != len(tt.code) || i.Size() != len(tt.code) || i.Op != tt.op {
			t.Errorf("%s: % x: %v, length %d, want %v", tt.text, tt.code, i, i.Len, tt.op)
		}
		if i.Flow() != tt.flow || i.Reads() != tt.reads || i.Writes() != tt.writes {
			t.Errorf("%s: flow %v, reads %v, writes %v, want %v, %v, %v",
				tt.text, i.Flow(), i.Reads(), i.Writes(), tt.flow, tt.reads, tt.writes)
		}
	}
}

func TestErrors(t *testing.T) {
	tests := []struct {
		text string
		code []byte
		err  error
	}{
		{"nothing", nil, ErrTruncated},
		{"prefix only", []byte{0x66}, ErrTruncated},
		{"half of endbr64", []byte{0xf3, 0x0f}, ErrTruncated},
		{"half of vzeroupper", []byte{0xc5, 0xf8}, ErrTruncated},
		{"half of a call", []byte{0xe8, 0, 0, 0}, ErrTruncated},
		{"half of a SIB", []byte{0x8b, 0x04}, ErrTruncated},
		{"push es", []byte{0x06}, ErrInvalid},
		{"lea of a register", []byte{0x8d, 0xc0}, ErrInvalid},
		{"rex before VEX", []byte{0x48, 0xc5, 0xf8, 0x77}, ErrInvalid},
		{"66 before VEX", []byte{0x66, 0xc5, 0xf8, 0x77}, ErrInvalid},
		{"VEX map 0", []byte{0xc4, 0xe0, 0x78, 0x77}, ErrInvalid},
		{"VEX map 31", []byte{0xc4, 0xff, 0x78, 0x77}, ErrInvalid},
		{"EVEX of APX", []byte{0x62, 0xf4, 0x7c, 0x08, 0x01, 0xc0}, ErrInvalid},
		{"16 bytes", []byte{0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90}, ErrInvalid},
		{"call, 16 bits", []byte{0x66, 0xe8, 0, 0, 0, 0}, ErrAmbiguous},
	}
	for _, tt := range tests {
		if s, err := Scan(tt.code); err != tt.err {
			t.Errorf("%s: Scan = %d, %v, want %v", tt.text, s.Size(), err, tt.err)
		}
		if i, err := Decode(tt.code); err != tt.err {
			t.Errorf("%s: Decode = %v, %v, want %v", tt.text, i, err, tt.err)
		}
	}
}

func TestTargets(t *testing.T) {
	const addr = 0x401000
	tests := []struct {
		text   string
		code   []byte
		target uint64 // of a branch, 0 if there is none
		memory uint64 // of a rip-relative operand, 0 if there is none
	}{
		{"call .+0x15", []byte{0xe8, 0x10, 0, 0, 0}, addr + 0x15, 0},
		{"data16 rex.W call .+8", []byte{0x66, 0x66, 0x48, 0xe8, 0, 0, 0, 0}, addr + 8, 0},
		{"jmp .-2", []byte{0xeb, 0xfc}, addr - 2, 0},
		{"jne .+6-16", []byte{0x0f, 0x85, 0xf0, 0xff, 0xff, 0xff}, addr - 10, 0},
		{"xbegin .+7", []byte{0xc7, 0xf8, 1, 0, 0, 0}, addr + 7, 0},
		{"jmp rax", []byte{0xff, 0xe0}, 0, 0},
		{"jmp [rip-8]", []byte{0xff, 0x25, 0xf8, 0xff, 0xff, 0xff}, 0, addr - 2},
		{"lea rax, [rip-16]", []byte{0x48, 0x8d, 0x05, 0xf0, 0xff, 0xff, 0xff}, 0, addr - 9},
		{"cmp [rip+1], 7", []byte{0x83, 0x3d, 1, 0, 0, 0, 7}, 0, addr + 8},
		{"vmovdqa xmm0, [rip+8]", []byte{0xc5, 0xf9, 0x6f, 0x05, 8, 0, 0, 0}, 0, addr + 16},
		{"mov rax, fs:[rip+8]", []byte{0x64, 0x48, 0x8b, 0x05, 8, 0, 0, 0}, 0, 0},
		{"mov eax, [0x10]", []byte{0x8b, 0x04, 0x25, 0x10, 0, 0, 0}, 0, 0},
		{"mov cr0, rbp", []byte{0x0f, 0x22, 0x05}, 0, 0}, // mod is ignored
	}
	for _, tt := range tests {
		s, err := Scan(tt.code)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		if target, ok := s.Target(addr); target != tt.target || ok != (tt.target != 0) {
			t.Errorf("%s: Target = %#x, %v, want %#x", tt.text, target, ok, tt.target)
		}
		if target, ok := s.MemTarget(addr); target != tt.memory || ok != (tt.memory != 0) {
			t.Errorf("%s: MemTarget = %#x, %v, want %#x", tt.text, target, ok, tt.memory)
		}
	}
}

func TestMemory(t *testing.T) {
	tests := []struct {
		text string
		code []byte
		want Memory
		ok   bool
	}{
		{"mov rax, [rbp-8]", []byte{0x48, 0x8b, 0x45, 0xf8}, Memory{Base: RBP, Index: NoRegister, Scale: 1, Disp: -8}, true},
		{"mov rax, [rsp]", []byte{0x48, 0x8b, 0x04, 0x24}, Memory{Base: RSP, Index: NoRegister, Scale: 1}, true},
		{"mov rax, [r12]", []byte{0x49, 0x8b, 0x04, 0x24}, Memory{Base: R12, Index: NoRegister, Scale: 1}, true},
		{"mov rax, [r13+0]", []byte{0x49, 0x8b, 0x45, 0}, Memory{Base: R13, Index: NoRegister, Scale: 1}, true},
		{"mov rax, [rax+r12*8-1]", []byte{0x4a, 0x8b, 0x44, 0xe0, 0xff}, Memory{Base: RAX, Index: R12, Scale: 8, Disp: -1}, true},
		{"mov rax, [rcx*4+16]", []byte{0x48, 0x8b, 0x04, 0x8d, 16, 0, 0, 0}, Memory{Base: NoRegister, Index: RCX, Scale: 4, Disp: 16}, true},
		{"mov rax, fs:[0]", []byte{0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0}, Memory{Segment: FS, Base: NoRegister, Index: NoRegister, Scale: 1}, true},
		{"mov rax, gs:[rip-1]", []byte{0x65, 0x48, 0x8b, 0x05, 0xff, 0xff, 0xff, 0xff}, Memory{Segment: GS, Base: RIP, Index: NoRegister, Scale: 1, Disp: -1}, true},
		{"movabs al, [0x1122334455667788]", []byte{0xa0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11}, Memory{Base: NoRegister, Index: NoRegister, Scale: 1, Disp: 0x1122334455667788}, true},
		{"vpgatherdd xmm0, [rax+xmm4*2], xmm1", []byte{0xc4, 0xe2, 0x71, 0x90, 0x04, 0x60}, Memory{Base: RAX, Index: NoRegister, Scale: 2, Vector: true}, true},
		{"vmovups zmm0, [rax+0x40]", []byte{0x62, 0xf1, 0x7c, 0x48, 0x10, 0x40, 0x01}, Memory{}, false},
		{"mov rax, rbx", []byte{0x48, 0x89, 0xd8}, Memory{}, false},
		{"push rax", []byte{0x50}, Memory{}, false},
	}
	for _, tt := range tests {
		s, err := Scan(tt.code)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		if m, ok := s.Memory(); m != tt.want || ok != tt.ok {
			t.Errorf("%s: Memory = %+v, %v, want %+v, %v", tt.text, m, ok, tt.want, tt.ok)
		}
	}
}

func TestImmediates(t *testing.T) {
	tests := []struct {
		text string
		code []byte
		want int64
		ok   bool
	}{
		{"mov eax, -1", []byte{0xb8, 0xff, 0xff, 0xff, 0xff}, -1, true},
		{"mov ax, 0x1234", []byte{0x66, 0xb8, 0x34, 0x12}, 0x1234, true},
		{"movabs rax, 1<<56", []byte{0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 1}, 1 << 56, true},
		{"sub rsp, 0x80", []byte{0x48, 0x81, 0xec, 0x80, 0, 0, 0}, 0x80, true},
		{"and rsp, -16", []byte{0x48, 0x83, 0xe4, 0xf0}, -16, true},
		{"enter 16, 2", []byte{0xc8, 16, 0, 2}, 16, true},
		{"test byte [rdi], 1", []byte{0xf6, 0x07, 1}, 1, true},
		{"neg eax", []byte{0xf7, 0xd8}, 0, false},
		{"ret", []byte{0xc3}, 0, false},
	}
	for _, tt := range tests {
		s, err := Scan(tt.code)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		if imm, ok := s.Imm(); imm != tt.want || ok != tt.ok {
			t.Errorf("%s: Imm = %d, %v, want %d, %v", tt.text, imm, ok, tt.want, tt.ok)
		}
	}
}

func TestScanDoesNotAllocate(t *testing.T) {
	n := testing.AllocsPerRun(10, func() {
		for _, tt := range shapes {
			s, _ := Scan(tt.code)
			s.Memory()
			s.Target(0)
		}
	})
	if n != 0 {
		t.Errorf("Scan of %d instructions allocates %v times", len(shapes), n)
	}
}
