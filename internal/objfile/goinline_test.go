package objfile

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestInlinings reads the tables of this very program and wants what the runtime finds in them.
func TestInlinings(t *testing.T) {
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := f.GoTable()
	if err != nil {
		t.Fatal(err)
	}
	here, _, _, _ := runtime.Caller(0)
	self := table.Find(uint64(here))
	if self == nil || self.Name != "bulkhead/internal/objfile.TestInlinings" {
		t.Skipf("the program is loaded at another address than it is linked at: %+v", self)
	}
	checked := 0
	for i := range table.Funcs {
		fn := &table.Funcs[i]
		list, err := table.AppendInlinings(nil, fn)
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range list {
			// The runtime tells of an address the innermost function only.
			frame, _ := runtime.CallersFrames([]uintptr{uintptr(in.PC) + 1}).Next()
			if len(in.Names) == 0 || frame.Function == "" { // it hides wrappers
				continue
			}
			if want := frame.Function; genericName(in.Names[0]) != want {
				t.Fatalf("%s at %#x was inlined from %v, want %v", fn.Name, in.PC, in.Names, want)
			}
			checked++
		}
	}
	if checked < 1000 {
		t.Errorf("%d ranges are too few to tell anything", checked)
	}
	const prefix = "bulkhead/internal/objfile."
	want := []string{prefix + "inlined3", prefix + "inlined2", prefix + "inlined1"}
	if got := table.Inlined(uint64(inlined1()) - 1); !slices.Equal(got, want) {
		t.Errorf("a call was inlined from %v, want %v", got, want)
	}
}

func inlined1() uintptr { return inlined2() + 0 }
func inlined2() uintptr { return inlined3() + 0 }
func inlined3() uintptr { return returnAddress() }

//go:noinline
func returnAddress() uintptr {
	pc, _, _, _ := runtime.Caller(1)
	return pc
}

// genericName writes a name as the runtime reports it: without type arguments.
func genericName(name string) string {
	open, shut := strings.IndexByte(name, '['), strings.LastIndexByte(name, ']')
	if open < 0 || shut < open {
		return name
	}
	return name[:open] + "[...]" + name[shut+1:]
}
