package cfi

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// smallTable has a rule of every kind.
func smallTable() *Table {
	b := newTableBuilder(0)
	for i, r := range []Rule{
		{CFA: KindEnd},
		{CFA: KindRegister, Reg: RegRSP, CFAOffset: 8, RBPOffset: Same, RBXOffset: Same, RAOffset: -8},
		{CFA: KindRegister, Reg: RegRSP, Flags: RAInRegister, RAOffset: 5, RBPOffset: Same, RBXOffset: Undefined},
		{CFA: KindDeref, Reg: RegRBP, Flags: RBPAtRBP, CFAOffset: -8, RBXOffset: -24, RAOffset: -8},
		{CFA: KindPLT, Reg: RegRSP, CFAOffset: 8, CFAExtra: 11, RBPOffset: Same, RBXOffset: Same, RAOffset: -8},
		{CFA: KindSignal},
	} {
		b.span(span{uint64(i) * 16, uint64(i)*16 + 12, r})
	}
	b.lose(100, 200, ReasonExpression)
	return b.finish()
}

// TestLayout pins what BPF maps hold.
func TestLayout(t *testing.T) {
	if n := unsafe.Sizeof(Row{}); n != rowSize {
		t.Errorf("a row has %d bytes", n)
	}
	if n := unsafe.Sizeof(Rule{}); n != ruleSize {
		t.Errorf("a rule has %d bytes", n)
	}
}

func TestBinary(t *testing.T) {
	want := smallTable()
	data, err := want.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var got Table
	if err := got.UnmarshalBinary(data); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*want, got, cmpopts.EquateEmpty(), cmp.Exporter(func(reflect.Type) bool { return true })); diff != "" {
		t.Error(diff)
	}
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1
		if err := new(Table).UnmarshalBinary(bad); err == nil {
			t.Errorf("byte %d changed: no error", i)
		}
		if err := new(Table).UnmarshalBinary(data[:i]); err == nil {
			t.Errorf("cut to %d bytes: no error", i)
		}
	}
	if err := new(Table).UnmarshalBinary(append(data, 0)); err == nil {
		t.Error("with a byte more: no error")
	}
}

// seal gives changed data a correct checksum.
func seal(data []byte) []byte {
	binary.LittleEndian.PutUint32(data[24:], crc32.Checksum(data[headerSize:], castagnoli))
	return data
}

func TestBinaryChecks(t *testing.T) {
	good, err := smallTable().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	rows := int(binary.LittleEndian.Uint32(good[12:]))
	rule1 := headerSize + rows*rowSize + ruleSize
	for _, test := range []struct {
		name string
		at   int
		to   byte
		want string
	}{
		{"rule index", headerSize + 4, 200, "has rule 200"},
		{"region", headerSize + 6, 1, "region 1"},
		{"order", headerSize + rowSize, 0, "out of order"},
		{"kind", rule1, 9, "rule 1"},
		{"register", rule1 + 1, 16, "rule 1"},
		{"flags", rule1 + 2, 0x80, "rule 1"},
		{"first rule", rule1 - ruleSize, byte(KindEnd), "rule 0"},
	} {
		bad := bytes.Clone(good)
		bad[test.at] = test.to
		if err := new(Table).UnmarshalBinary(seal(bad)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// FuzzTable decodes arbitrary bytes; what is accepted must encode to the same bytes and serve lookups.
func FuzzTable(f *testing.F) {
	data, err := smallTable().MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= headerSize {
			data = seal(bytes.Clone(data))
		}
		var table Table
		if table.UnmarshalBinary(data) != nil {
			return
		}
		again, err := table.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var second Table
		if err := second.UnmarshalBinary(again); err != nil {
			t.Fatal(err)
		}
		for _, row := range table.Rows {
			if table.Lookup(uint64(row.Offset)) != second.Lookup(uint64(row.Offset)) {
				t.Fatalf("rules at %#x differ", row.Offset)
			}
		}
		stack := StackCopy{Base: 1 << 20, Data: data}
		regs := Regs{IP: 1, GPR: [16]uint64{RegRSP: 1 << 20, RegRBP: 1 << 20}}
		Unwind(regs, stack, func(addr uint64) (*Table, uint64, bool) { return &table, addr & 0xff, true }, 50)
	})
}

func TestCache(t *testing.T) {
	dir := t.TempDir()
	f := openFile(t, "/lib/x86_64-linux-gnu/libc.so.6")
	want, err := Build(f)
	if err != nil {
		t.Fatal(err)
	}
	check := func(c *Cache) {
		t.Helper()
		got, err := c.Load(f)
		if err != nil {
			t.Fatal(err)
		}
		if render(got) != render(want) {
			t.Error("another table")
		}
	}
	entries := func() []string {
		names, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	check(nil)
	c, err := OpenCache(dir)
	if err != nil {
		t.Fatal(err)
	}
	check(c)
	if n := len(entries()); n != 1 {
		t.Fatalf("%d entries", n)
	}
	check(c)

	// A damaged entry is replaced.
	path := entries()[0]
	if err := os.WriteFile(path, []byte("bulkcfi\x00 and then nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	check(c)
	if info, err := os.Stat(path); err != nil || info.Size() < 1000 {
		t.Errorf("damaged entry was not replaced: %v, %v", info, err)
	}

	// Concurrent loads of a missing entry agree and leave one file.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { check(c) })
	}
	wg.Wait()
	if got := entries(); len(got) != 1 {
		t.Errorf("after concurrent loads: %v", got)
	}
}

// TestCacheKey wants a file with a foreign build id to get an entry of its own.
func TestCacheKey(t *testing.T) {
	libc, libm := openFile(t, "/lib/x86_64-linux-gnu/libc.so.6"), openFile(t, "/lib/x86_64-linux-gnu/libm.so.6")
	first, err := cacheKey(libc)
	if err != nil {
		t.Fatal(err)
	}
	libm.BuildID, libm.Size = libc.BuildID, libc.Size
	second, err := cacheKey(libm)
	if err != nil {
		t.Fatal(err)
	}
	if first == second {
		t.Error("two files share a key")
	}
}

func BenchmarkCacheLoad(b *testing.B) {
	c, err := OpenCache(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	for _, path := range benchmarkFiles {
		b.Run(filepath.Base(path), func(b *testing.B) {
			for b.Loop() {
				f := openFile(b, path)
				if _, err := c.Load(f); err != nil {
					b.Fatal(err)
				}
				f.Close()
			}
		})
	}
}
