package disasm

import (
	"bufio"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// A line is one instruction as objdump prints it.
type line struct {
	addr uint64
	code []byte
	text string
}

// objdump calls fn for each instruction in the executable sections of path.
func objdump(t testing.TB, path string, fn func(line)) {
	t.Helper()
	if _, err := exec.LookPath("objdump"); err != nil {
		t.Skip("objdump is not installed: install binutils")
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no %s on this machine", filepath.Base(path))
	}
	cmd := exec.Command("objdump", "-d", "-w", "-z", "-M", "suffix", path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	scanner := bufio.NewScanner(out)
	for scanner.Scan() {
		if l, ok := parseLine(scanner.Text()); ok {
			fn(l)
		}
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("objdump -d %s: %v", path, err)
	}
}

// parseLine reads "  1234:\t48 89 e5 \tmov ...".
func parseLine(text string) (line, bool) {
	addr, rest, ok := strings.Cut(text, ":\t")
	if !ok {
		return line{}, false
	}
	a, err := strconv.ParseUint(strings.TrimSpace(addr), 16, 64)
	if err != nil {
		return line{}, false
	}
	raw, mnemonic, _ := strings.Cut(rest, "\t")
	code, err := hex.DecodeString(strings.ReplaceAll(raw, " ", ""))
	if err != nil {
		return line{}, false
	}
	return line{a, code, mnemonic}, true
}

var corpus = []string{
	"/lib/x86_64-linux-gnu/libc.so.6",
	"/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
	"/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
	filepath.Join(runtime.GOROOT(), "bin", "go"),
}

func TestBoundariesAgainstObjdump(t *testing.T) {
	for _, path := range corpus {
		t.Run(filepath.Base(path), func(t *testing.T) {
			total, wrong := 0, 0
			objdump(t, path, func(l line) {
				total++
				if testing.Short() && total%64 != 0 {
					return
				}
				bad := strings.Contains(l.text, "(bad)")
				s, err := Scan(l.code)
				if bad && err != nil || err == nil && s.Size() == len(l.code) {
					return
				}
				if wrong++; wrong <= 200 {
					t.Logf("%#x % x: %d, %v; objdump: %d, %s", l.addr, l.code, s.Size(), err, len(l.code), l.text)
				}
			})
			t.Logf("%d instructions, %d disagree", total, wrong)
			if total == 0 || wrong*10000 > total {
				t.Errorf("%d of %d instructions disagree, want at most 0.01 %%", wrong, total)
			}
		})
	}
}
