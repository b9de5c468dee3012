package inkernel

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead/internal/enforce/enforcetest"
	"bulkhead/internal/testenv"
)

// TestInVM runs the tests of what hooks deny on the kernels of Debian, where BPF LSM works.
func TestInVM(t *testing.T) {
	if enforcetest.Prebuilt != "" {
		t.Skip("this is the virtual machine")
	}
	kernelBackend().Escapes(t)
	kernelBackend().Nothing(t)
	files := map[string]string{"/test": testenv.BuildTest(t, "internal/enforce/inkernel")}
	for _, name := range []string{"two", "liba.so", "libb.so", "nothing", "escapes", "libplugin.so"} {
		files["/fixtures/"+name] = filepath.Join(fixtures.Dir(), name)
	}
	for _, library := range []string{"/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"} {
		files[library] = library
	}
	run := []string{"/bin/env", "CI=1", "BULKHEAD_TEST_FIXTURES=/fixtures", "/test", "-test.v",
		"-test.run", "^(TestDeny|TestEffects|TestChain|TestEscapes)$",
		"-test.skip", "^TestEscapes$/^([^c]|ch|cl|con)"} // of the ways around only int 0x80, which works there
	for _, version := range testenv.Kernels {
		t.Run(string(version), func(t *testing.T) {
			output, exit := testenv.BootVM(t, version, files, run, 10*time.Minute)
			if exit != 0 || !strings.Contains(output, "--- PASS: TestDeny") ||
				!strings.Contains(output, "--- PASS: TestEscapes/compat") ||
				!strings.Contains(output, "--- PASS: TestEffects") {
				t.Errorf("exit status %d:\n%s", exit, output)
			}
			t.Log(output)
		})
	}
}
