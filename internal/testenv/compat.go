package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

const compatProgram = `int main(void) { long r = 20; __asm__ volatile("int $0x80" : "+a"(r) : : "memory"); return r <= 0; }`

// RequireCompat skips a test that enters the kernel by int 0x80 where that is a fault: kernels without 32-bit emulation
// and some virtual machines, whatever their kernel was built with. It does not fail there with CI set, because no package
// mends it: such a test has a twin that runs in BootVM.
func RequireCompat(t testing.TB) {
	t.Helper()
	Tool(t, "gcc")
	if err := compatEntry(); err != nil {
		t.Skip(err)
	}
}

var compatEntry = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "bulkhead-compat-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "compat")
	source := program + ".c"
	if err := os.WriteFile(source, []byte(compatProgram), 0o600); err != nil {
		return err
	}
	if said, err := exec.Command("gcc", "-o", program, source).CombinedOutput(); err != nil {
		return fmt.Errorf("compile the probe of int 0x80: %w: %s", err, said)
	}
	var exit *exec.ExitError
	if err := exec.Command(program).Run(); errors.As(err, &exit) {
		return fmt.Errorf("no system calls by int 0x80 on this machine: %w", err)
	} else if err != nil {
		return fmt.Errorf("run the probe of int 0x80: %w", err)
	}
	return nil
})
