package inkernel

import (
	"slices"
	"strings"
	"testing"

	"bulkhead/internal/bpf"
	"bulkhead/internal/syscalls"
)

// TestHooksOf wants calls that there are, with hooks that there are programs for.
func TestHooksOf(t *testing.T) {
	programs, err := bpf.Hooks()
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for call, wanted := range hooksOf {
		if _, ok := syscalls.Number(syscalls.AMD64, call); !ok {
			t.Errorf("there is no system call %s", call)
		}
		for _, alternatives := range wanted {
			for hook := range strings.SplitSeq(alternatives, "|") {
				used[hook] = true
				if !slices.Contains(programs, hook) {
					t.Errorf("%s: there is no program for hook %s", call, hook)
				}
			}
		}
	}
	for _, program := range programs {
		if !used[program] {
			t.Errorf("no call needs hook %s", program)
		}
	}
}

func TestNeed(t *testing.T) {
	denied := func(names ...string) func(syscalls.ABI, int) bool {
		return func(abi syscalls.ABI, nr int) bool {
			name, _ := syscalls.Name(abi, nr)
			return slices.Contains(names, name)
		}
	}
	for _, test := range []struct {
		kernel, calls, hooks, covered []string
	}{
		{[]string{"path_truncate", "file_open"}, []string{"ftruncate"}, []string{"path_truncate"}, []string{"ftruncate"}},
		{[]string{"path_truncate", "file_truncate"}, []string{"ftruncate"}, []string{"file_truncate"}, []string{"ftruncate"}},
		{[]string{"file_open"}, []string{"openat"}, nil, nil}, // one of two hooks
		{[]string{"file_open", "inode_create"}, []string{"openat", "getppid"}, []string{"file_open", "inode_create"}, []string{"openat"}},
	} {
		hooks, covered := need(func(hook string) bool { return slices.Contains(test.kernel, hook) }, denied(test.calls...))
		if !slices.Equal(hooks, test.hooks) {
			t.Errorf("%v: hooks %v, want %v", test.calls, hooks, test.hooks)
		}
		for _, call := range test.calls {
			nr, _ := syscalls.Number(syscalls.AMD64, call)
			if covered(syscalls.AMD64, nr) != slices.Contains(test.covered, call) {
				t.Errorf("%v: %s is covered: %t", test.kernel, call, covered(syscalls.AMD64, nr))
			}
		}
	}
}
