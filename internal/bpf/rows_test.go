package bpf

import (
	"math"
	"strings"
	"testing"

	"bulkhead/internal/cfi"
)

// table has n rows, one for every 16 bytes, under two rules in turn.
func table(n int) *cfi.Table {
	t := &cfi.Table{Rules: []cfi.Rule{
		{CFA: cfi.KindRegister, Reg: cfi.RegRSP, CFAOffset: 8, RAOffset: -8, RBPOffset: cfi.Same, RBXOffset: cfi.Same},
		{CFA: cfi.KindRegister, Reg: cfi.RegRBP, CFAOffset: 16, RAOffset: -8, RBPOffset: -16, RBXOffset: cfi.Undefined},
	}}
	for i := range n {
		t.Rows = append(t.Rows, cfi.Row{Offset: uint32(i * 16), Rule: uint16(i % 2)})
	}
	return t
}

// TestRows stores tables of all sizes around those of blocks and shards and reads them back from the kernel's maps.
func TestRows(t *testing.T) {
	tracer := newTracer(t, Options{})
	shard := blockRows * shardBlocks
	nextBlock := uint32(0)
	for i, n := range []int{0, 1, blockRows - 1, blockRows, blockRows + 1, shard, 1, 2*shard + 1} {
		id := ObjectID(100 + i)
		want := table(n)
		if err := tracer.LoadObject(id, want, []RegionFlags{0, RegionFlags(i)}); err != nil {
			t.Fatalf("%d rows: %v", n, err)
		}
		var object traceObject
		if err := tracer.rows.objects.Lookup(uint32(id), &object); err != nil {
			t.Fatal(err)
		}
		if object.Flags != uint32(traceObjectFlagsOBJECT_READY) {
			t.Errorf("%d rows: not ready", n)
		}
		var region traceRegion
		if err := tracer.rows.regionMap.Lookup(object.FirstRegion+1, &region); err != nil || region.Flags != uint32(i) {
			t.Errorf("%d rows: region 1 has flags %d, want %d (%v)", n, region.Flags, i, err)
		}
		if blocks := uint32((n + blockRows - 1) / blockRows); object.Blocks != blocks {
			t.Fatalf("%d rows: %d blocks, want %d", n, object.Blocks, blocks)
		}
		if n == 0 {
			continue
		}
		if object.FirstBlock != nextBlock {
			t.Errorf("%d rows: begin at block %d, want %d", n, object.FirstBlock, nextBlock)
		}
		nextBlock += object.Blocks
		checkBlocks(t, tracer, object, want)
	}
}

func checkBlocks(t *testing.T, tracer *Tracer, object traceObject, want *cfi.Table) {
	t.Helper()
	for i := range object.Blocks {
		at := object.FirstBlock + i
		shard, err := tracer.rows.shards[at/shardBlocks]()
		if err != nil {
			t.Fatal(err)
		}
		var block traceBlock
		if err := shard.Lookup(at%shardBlocks, &block); err != nil {
			t.Fatal(err)
		}
		for slot, row := range block.Rows {
			n := int(i)*blockRows + slot
			if n >= len(want.Rows) {
				if row.Offset != math.MaxUint32 {
					t.Fatalf("the block is filled up by a row at %#x", row.Offset)
				}
				continue
			}
			var rule traceRule
			if err := tracer.rows.ruleMap.Lookup(uint32(row.Rule), &rule); err != nil {
				t.Fatal(err)
			}
			if expected := want.Rules[want.Rows[n].Rule]; row.Offset != want.Rows[n].Offset || rule != kernelRule(expected) {
				t.Fatalf("row %d is at %#x with %+v, want %#x with %+v", n, row.Offset, rule, want.Rows[n].Offset, expected)
			}
			if n > 1 && slot > 2 {
				break // the rest of the block is like this
			}
		}
	}
}

// TestRulesShared stores equal rules once, however many objects have them.
func TestRulesShared(t *testing.T) {
	tracer := newTracer(t, Options{})
	for id := range ObjectID(10) {
		if err := tracer.LoadObject(100+id, table(2), []RegionFlags{0}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(tracer.rows.rules); n != 3 { // and "none"
		t.Errorf("%d rules are stored for 10 tables with the same two, want 3", n)
	}
}

// TestRowsFull refuses what does not fit, and the store still works after that.
func TestRowsFull(t *testing.T) {
	tracer := newTracer(t, Options{})
	most := int(tracer.rows.shardMap.MaxEntries()) * shardBlocks
	err := tracer.rows.grow(uint32(most))
	if err == nil || !strings.Contains(err.Error(), "do not fit") {
		t.Errorf("a table of all blocks there are: %v", err)
	}
	tracer.rows.regions = tracer.rows.regionMap.MaxEntries() - 1
	if err := tracer.LoadObject(100, table(1), make([]RegionFlags, 2)); err == nil || !strings.Contains(err.Error(), "do not fit") {
		t.Errorf("more regions than there are: %v", err)
	}
	if err := tracer.LoadObject(100, table(1000), []RegionFlags{0}); err != nil {
		t.Error(err)
	}
}
