package trace

import (
	"debug/elf"
	"encoding/binary"
	"slices"

	"bulkhead/internal/attribution"
	"bulkhead/internal/objfile"
)

// viaOf names the conduit function that the code at an offset of the origin called: one that was inlined there; else the
// one that the call instruction names, when the conduit has such a function (the origin may call one of its own that
// jumps there); else the outermost that is active at an offset of the conduit, or its place in the file. A nil via is
// code that called the kernel itself.
func viaOf(origin *object, at uint32, via *object, offset uint32) string {
	regions, active := origin.regions(), origin.calls(at)
	charged := slices.IndexFunc(active, func(c call) bool { return !regions.Parts[c.part].Conduit })
	if charged > 0 {
		return active[charged-1].function
	}
	if via == nil {
		return ""
	}
	if name := origin.callee(uint64(at) + 1); name != "" && via.exports()[name] {
		return name
	}
	calls := via.calls(offset)
	if outer := calls[len(calls)-1]; outer.function != "" {
		return outer.function
	}
	return attribution.ObjectName(via.path) + "+" + hex(uint64(offset))
}

// imports names what an object's code calls through its global offset table: symbol names by the slot's address.
type imports map[uint64]string

func readImports(f *objfile.File) imports {
	relocs, err := f.Relocations()
	if err != nil {
		return nil
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return nil
	}
	slots := imports{}
	for _, r := range relocs {
		t := elf.R_X86_64(r.Type)
		if (t == elf.R_X86_64_JMP_SLOT || t == elf.R_X86_64_GLOB_DAT) && int(r.Sym) < len(symbols) {
			slots[r.Offset] = symbols[r.Sym].Name
		}
	}
	return slots
}

// readExports reads the names that an object defines for others.
func readExports(f *objfile.File) map[string]bool {
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return nil
	}
	names := make(map[string]bool, len(symbols))
	for _, s := range symbols {
		if s.Shndx != elf.SHN_UNDEF {
			names[s.Name] = true
		}
	}
	return names
}

// callee names the imported function that the call before a return address (as a file offset) is for. A stack does not
// tell it where that function has left by a jump to another one, without a name in a stripped library. Empty for calls
// of another form.
func (obj *object) callee(returnOffset uint64) string {
	elf := obj.image()
	if elf == nil {
		return ""
	}
	ra, ok := elf.OffsetToVaddr(returnOffset)
	if !ok || ra < 6 {
		return ""
	}
	code, err := elf.ReadVaddr(ra-6, 6)
	if err != nil {
		return ""
	}
	relative := func(b []byte) uint64 { return uint64(int64(int32(binary.LittleEndian.Uint32(b)))) }
	if code[0] == 0xff && code[1] == 0x15 { // call *slot(%rip)
		return obj.imports()[ra+relative(code[2:])]
	}
	if code[1] == 0xe8 { // call stub
		return obj.stub(elf, ra+relative(code[2:]))
	}
	return ""
}

// stub names the import that a procedure linkage table entry jumps to.
func (obj *object) stub(elf *objfile.File, vaddr uint64) string {
	code, err := elf.ReadVaddr(vaddr, 16)
	if err != nil {
		return ""
	}
	at := uint64(0)
	if string(code[:4]) == "\xf3\x0f\x1e\xfa" { // endbr64
		at = 4
	}
	if code[at] == 0xf2 { // bnd
		at++
	}
	if code[at] != 0xff || code[at+1] != 0x25 { // jmp *slot(%rip)
		return ""
	}
	slot := int64(int32(binary.LittleEndian.Uint32(code[at+2:])))
	return obj.imports()[vaddr+at+6+uint64(slot)]
}
