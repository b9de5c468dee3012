package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bulkhead/internal/analysis"
)

// TestSweep analyses every ELF program of /usr/bin and /usr/sbin, runs each with
// --version and --help as nobody under the tracer, and compares. It takes long:
// BULKHEAD_SOUNDNESS=all runs it, 3/20 the third of twenty parts.
func TestSweep(t *testing.T) {
	part, parts := 1, 1
	switch want := os.Getenv("BULKHEAD_SOUNDNESS"); want {
	case "":
		t.Skip("takes half an hour: BULKHEAD_SOUNDNESS=all, or 3/20 for a part")
	case "all":
	default:
		if _, err := fmt.Sscanf(want, "%d/%d", &part, &parts); err != nil || part < 1 || part > parts {
			t.Fatalf("BULKHEAD_SOUNDNESS=%s: want all, or 3/20", want)
		}
	}
	c := newComparison(t, "") // the user's cache, so that parts and runs share it
	programs := everyProgram(t)
	programs = programs[len(programs)*(part-1)/parts : len(programs)*part/parts]
	analysed, complete := 0, 0
	for _, path := range programs {
		doc, err := analysis.Document(path, analysis.Options{Summaries: c.cache})
		if err != nil {
			t.Errorf("not analysed: %v", err)
			continue
		}
		analysed++
		if doc.Programs[0].Complete {
			complete++
		}
	}
	t.Logf("%d programs, %d analysed to the end, %d of them without open ends", len(programs), analysed, complete)
	const batch = 10
	t.Run("traced", func(t *testing.T) {
		for some := range slices.Chunk(programs, batch) {
			t.Run(filepath.Base(some[0]), func(t *testing.T) {
				t.Parallel()
				script := "cd /tmp\n"
				for _, path := range some {
					for _, flag := range []string{"--version", "--help"} {
						script += fmt.Sprintf("timeout -k 1 5 setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs %s %s </dev/null >/dev/null 2>&1\n", path, flag)
					}
				}
				c.compare(t, c.trace(t, 3*time.Minute, nil, "/bin/sh", "-c", script))
			})
		}
	})
}

// notRun are programs that do more than print their version when asked to.
var notRun = []string{
	"agetty", "halt", "init", "kexec", "killall5", "login", "poweroff", "reboot", "runlevel", "shutdown", "su", "sudo", "sulogin",
	"systemctl", "telinit",
}

func everyProgram(t *testing.T) []string {
	var out []string
	for _, dir := range []string{"/usr/bin", "/usr/sbin"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			path, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name()))
			if err != nil || slices.Contains(notRun, filepath.Base(path)) || slices.Contains(notRun, e.Name()) {
				continue
			}
			if strings.HasPrefix(string(head(path)), "\x7fELF") {
				out = append(out, path)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func head(path string) []byte {
	b := make([]byte, 4)
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	_, _ = f.Read(b)
	return b
}
