package cfi

import (
	"testing"

	"bulkhead/internal/objfile"
)

// TestFunctionsAgreeWithTable looks every row of a real table up function by function.
func TestFunctionsAgreeWithTable(t *testing.T) {
	f, err := objfile.Open("/lib/x86_64-linux-gnu/libc.so.6")
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	table, err := Build(f)
	if err != nil {
		t.Fatal(err)
	}
	functions, err := OpenFunctions(f)
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, row := range table.Rows {
		offset := uint64(row.Offset)
		one := functions.At(offset)
		if one == nil {
			continue
		}
		compared++
		if got, want := one.Lookup(offset), table.Lookup(offset); got != want && want.CFA != KindEnd {
			t.Errorf("at %#x: %+v, the table has %+v", offset, got, want)
		}
	}
	if compared < 20000 {
		t.Errorf("only %d rows compared", compared)
	}
	if functions.At(0) != nil || functions.At(1<<40) != nil {
		t.Error("rules outside the code")
	}
}
