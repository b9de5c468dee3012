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
	runObjdump(t, exec.Command("objdump", "-d", "-w", "-z", path), fn)
}

// objdumpRaw does the same for a file without any structure.
func objdumpRaw(t testing.TB, path string, fn func(line)) {
	t.Helper()
	if _, err := exec.LookPath("objdump"); err != nil {
		t.Skip("objdump is not installed: install binutils")
	}
	runObjdump(t, exec.Command("objdump", "-D", "-w", "-z", "-b", "binary", "-m", "i386:x86-64", path), fn)
}

func runObjdump(t testing.TB, cmd *exec.Cmd, fn func(line)) {
	t.Helper()
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
		t.Fatalf("%v: %v", cmd, err)
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

// isCode reports whether objdump took the bytes for an instruction. It shows
// data between functions as "(bad)", as .byte or as prefixes without opcode.
func (l line) isCode() bool {
	for _, word := range strings.Fields(l.text) {
		switch {
		case strings.HasPrefix(word, "rex"), word == "lock", word == "repz", word == "repnz",
			word == "data16", word == "addr32", len(word) == 2 && word[1] == 's':
			continue
		}
		return !strings.Contains(l.text, "(bad)") && word != ".byte"
	}
	return false
}

// corpus is what the decoder must agree on with objdump.
var corpus = []string{
	"/lib/x86_64-linux-gnu/libc.so.6",
	"/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
	"/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
	filepath.Join(runtime.GOROOT(), "bin", "go"),
}

func TestBoundariesAgainstObjdump(t *testing.T) {
	paths := corpus
	if testing.Short() {
		paths = corpus[:1]
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			total, wrong := 0, 0
			objdump(t, path, func(l line) {
				total++
				s, err := Scan(l.code)
				if l.isCode() == (err == nil) && (err != nil || s.Size() == len(l.code)) {
					return
				}
				if l.code[0] == 0x9b && s.Size() == 1 {
					return // objdump joins fwait to the x87 instruction after it
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
