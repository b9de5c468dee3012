package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead/internal/enforce/enforcetest"
	"bulkhead/internal/testenv"
)

// superviseInVM runs, as an ordinary user, the effects and the ways around, each behind its name, and the tests of all
// backends.
const superviseInVM = `#!/bin/sh
chmod 1777 /tmp
cat >/tmp/run.sh <<'END'
export HOME=/tmp/home
mkdir -p /tmp/home /tmp/effects /tmp/ways
cd /tmp/effects
/bulkhead run --policy /effects.policy -- /effects 2>/tmp/home/effects.err || cat /tmp/home/effects.err
cd /tmp/ways
for way in %s; do
	/bulkhead run --policy /ways.policy -- /ways $way /lib/libowner.so >/dev/null 2>/tmp/home/err
	test -d $way && echo "made $way"
done
grep -h backend /tmp/home/err
id -u
END
su -s /bin/sh nobody -c 'sh /tmp/run.sh'
env CI=1 BULKHEAD_TEST_FIXTURES=/fixtures /test -test.v -test.run '^(%s)$'
`

// suite has the names of the tests of all backends.
var suite = []string{"TestAllowed", "TestAudit", "TestDeny", "TestKill", "TestChain", "TestNoEffects", "TestEscapes", "TestNoFalseDenial"}

// TestInVM: the same holds on Debian's kernel, which has int 0x80.
func TestInVM(t *testing.T) {
	if enforcetest.Prebuilt != "" {
		t.Skip("this is the virtual machine")
	}
	names := []string{"allowed", "direct", "jit", "memfd", "int80", "vfork", "clone", "thread", "overlib", "notcall", "race", "ptrace", "listener", "supervisor"}
	dir := t.TempDir()
	build(t, "libdoer.so", doerLibrary)
	build(t, "libowner.so", ownerLibrary)
	inVM := func(name, source, library string) string {
		return build(t, "vm/"+name, "gcc -O2 -pthread "+source+" -L"+fixtures.Dir()+" -l"+library+" -Wl,-rpath,/lib")
	}
	files := map[string]string{
		"/bulkhead":        testenv.BuildProgram(t, "cmd/bulkhead"),
		"/effects":         inVM("effects", "testdata/effects.c", "doer"),
		"/ways":            inVM("ways", "testdata/ways.c", "owner"),
		"/lib/libdoer.so":  filepath.Join(fixtures.Dir(), "libdoer.so"),
		"/lib/libowner.so": filepath.Join(fixtures.Dir(), "libowner.so"),
		"/test":            testenv.BuildTest(t, "internal/enforce/supervisor"),
	}
	asNobody().Escapes(t)
	asNobody().Nothing(t)
	for _, name := range []string{"two", "liba.so", "libb.so", "nothing", "escapes", "libplugin.so"} {
		files["/fixtures/"+name] = filepath.Join(fixtures.Dir(), name)
	}
	for _, library := range []string{"/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"} {
		files[library] = library
	}
	for name, text := range map[string]string{
		"effects.policy": effectsPolicy("/effects", ""), "ways.policy": waysPolicy("/ways"),
		"run.sh": fmt.Sprintf(superviseInVM, strings.Join(names, " "), strings.Join(suite, "|")),
	} {
		files["/"+name] = filepath.Join(dir, name)
		if err := os.WriteFile(files["/"+name], []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	output, exit := testenv.BootVM(t, testenv.Kernel61, files, []string{"/run.sh"}, 8*time.Minute)
	for _, effect := range []string{"unlink", "rename", "chmod", "truncate", "mkdir", "kill", "udp", "tcp", "connect", "pipe", "file", "execve"} {
		if !strings.Contains(output, effect+" 0\n") {
			t.Errorf("%s: not 0 of 10 took effect", effect)
		}
	}
	if strings.Count(output, "made ") != 1 || !strings.Contains(output, "made allowed\n") {
		t.Error("not only what is allowed was made")
	}
	if exit != 0 || !strings.Contains(output, "\n65534\n") || !strings.Contains(output, "supervisor backend") {
		t.Errorf("exit status %d, or not an ordinary user under the supervisor", exit)
	}
	for _, test := range suite {
		if !strings.Contains(output, "--- PASS: "+test+" ") {
			t.Errorf("%s has not passed", test)
		}
	}
	if t.Failed() {
		t.Log(output)
	}
}
