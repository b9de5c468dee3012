package syscalls

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestNameAndNumber(t *testing.T) {
	tests := []struct {
		abi  ABI
		nr   int
		name string // "" if there is none
	}{
		{AMD64, 0, "read"},
		{AMD64, 59, "execve"},
		{AMD64, 335, "uretprobe"},
		{AMD64, 336, "uprobe"},
		{AMD64, 337, ""},
		{AMD64, 424, "pidfd_send_signal"},
		{AMD64, 471, "rseq_slice_yield"},
		{AMD64, 520, ""},
		{AMD64, X32Bit, ""},
		{AMD64, -1, ""},
		{I386, 0, "restart_syscall"},
		{I386, 11, "execve"},
		{I386, 102, "socketcall"},
		{I386, 403, "clock_gettime64"},
		{X32, X32Bit, "read"},
		{X32, X32Bit + 59, ""}, // amd64's execve
		{X32, X32Bit + 520, "execve"},
		{X32, X32Bit + 547, "pwritev2"},
		{X32, X32Bit + 335, ""}, // amd64 only
		{X32, X32Bit + 453, ""}, // likewise
		{X32, X32Bit + 462, "mseal"},
		{X32, 0, ""}, // without the bit it is amd64's
		{ARM64, 79, "newfstatat"},
		{ARM64, 221, "execve"},
		{ARM64, 244, ""},
		{ABI(9), 0, ""},
	}
	for _, tt := range tests {
		name, ok := Name(tt.abi, tt.nr)
		if name != tt.name || ok != (tt.name != "") {
			t.Errorf("Name(%v, %d) = %q, %v, want %q", tt.abi, tt.nr, name, ok, tt.name)
		}
		if tt.name == "" {
			continue
		}
		if nr, ok := Number(tt.abi, tt.name); nr != tt.nr || !ok {
			t.Errorf("Number(%v, %s) = %d, %v, want %d", tt.abi, tt.name, nr, ok, tt.nr)
		}
	}
	if nr, ok := Number(ARM64, "open"); ok {
		t.Errorf("Number(arm64, open) = %d, want none", nr)
	}
	if nr, ok := Number(ABI(9), "read"); ok {
		t.Errorf("Number(ABI(9), read) = %d, want none", nr)
	}
}

func TestAll(t *testing.T) {
	for abi, least := range map[ABI]int{AMD64: 380, I386: 450, X32: 370, ARM64: 320} {
		last, n := -1, 0
		for nr, name := range All(abi) {
			if nr <= last {
				t.Errorf("%v: %s has number %d after %d", abi, name, nr, last)
			}
			if got, ok := Number(abi, name); got != nr || !ok {
				t.Errorf("%v: Number(%s) = %d, %v, want %d", abi, name, got, ok, nr)
			}
			last = nr
			n++
		}
		if n != Count(abi) || n < least {
			t.Errorf("%v has %d system calls, Count says %d, want at least %d", abi, n, Count(abi), least)
		}
	}
}

func TestParseABI(t *testing.T) {
	for abi := AMD64; abi <= ARM64; abi++ {
		if got, err := ParseABI(abi.String()); got != abi || err != nil {
			t.Errorf("ParseABI(%s) = %v, %v", abi, got, err)
		}
	}
	for name, want := range map[string]ABI{"x86_64": AMD64, "386": I386, "aarch64": ARM64} {
		if got, err := ParseABI(name); got != want || err != nil {
			t.Errorf("ParseABI(%s) = %v, %v, want %v", name, got, err, want)
		}
	}
	if _, err := ParseABI("sparc"); err == nil {
		t.Error("ParseABI(sparc) gives no error")
	}
}

// TestGenerated checks that ztables.go is what the generator writes now.
func TestGenerated(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the generator")
	}
	requireHeader(t, "unistd_x32.h")
	out := filepath.Join(t.TempDir(), "ztables.go")
	if b, err := exec.Command("go", "run", "./gen", "-o", out).CombinedOutput(); err != nil {
		t.Fatalf("go run ./gen: %v\n%s", err, b)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("ztables.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("ztables.go is not what go generate writes: run go generate ./internal/syscalls")
	}
}

// TestKernelHeaders checks the tables against the headers of the C library,
// which come from another kernel version by another way.
func TestKernelHeaders(t *testing.T) {
	pattern := regexp.MustCompile(`(?m)^#define __NR_(\w+)\s+(?:\(__X32_SYSCALL_BIT \+ )?(\d+)\)?$`)
	for abi, file := range map[ABI]string{AMD64: "unistd_64.h", I386: "unistd_32.h", X32: "unistd_x32.h"} {
		t.Run(abi.String(), func(t *testing.T) {
			matches := pattern.FindAllSubmatch(requireHeader(t, file), -1)
			if len(matches) < 300 {
				t.Fatalf("%s: %d numbers, want at least 300", file, len(matches))
			}
			for _, m := range matches {
				want, err := strconv.Atoi(string(m[2]))
				if err != nil {
					t.Fatal(err)
				}
				if abi == X32 {
					want |= X32Bit
				}
				if nr, ok := Number(abi, string(m[1])); nr != want || !ok {
					t.Errorf("Number(%v, %s) = %d, %v; %s: %d", abi, m[1], nr, ok, file, want)
				}
			}
		})
	}
}

func requireHeader(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/usr/include/x86_64-linux-gnu/asm", file))
	if err != nil {
		t.Skipf("%v: install linux-libc-dev", err)
	}
	return b
}

func TestDanger(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range mustParse("danger.txt", dangerText) {
		if s.key < "1" || s.key > "3" || len(s.key) != 1 || s.rest == "" {
			t.Errorf("section %q %q has no class 1 to 3 or no reason", s.key, s.rest)
		}
		for _, name := range s.words {
			if seen[name] {
				t.Errorf("%s is classed twice", name)
			}
			seen[name] = true
		}
	}
	for _, name := range allNames() {
		if Danger(name) == 0 {
			t.Errorf("%s has no danger class", name)
		}
		delete(seen, name)
	}
	for name := range seen {
		t.Errorf("%s has a danger class and is in no table", name)
	}
	for name, want := range map[string]int{"execve": 3, "openat": 3, "ioctl": 2, "mprotect": 2, "getpid": 1, "read": 1, "nosuch": 0} {
		if got := Danger(name); got != want {
			t.Errorf("Danger(%s) = %d, want %d", name, got, want)
		}
	}
	if DangerReason("openat") != "like open" {
		t.Errorf("DangerReason(openat) = %q", DangerReason("openat"))
	}
}

func TestGroups(t *testing.T) {
	names := allNames()
	for _, g := range Groups() {
		if g.Doc == "" || len(g.Syscalls) == 0 || !strings.HasPrefix(g.Name, "@") {
			t.Errorf("group %+v is not complete", g)
		}
		for _, name := range g.Syscalls {
			if _, ok := slices.BinarySearch(names, name); !ok {
				t.Errorf("%s has %s, which is in no table", g.Name, name)
			}
		}
	}
	if got, want := GroupsOf("setuid"), []string{"@known", "@privileged", "@setuid", "@system-service"}; !slices.Equal(got, want) {
		t.Errorf("GroupsOf(setuid) = %v, want %v", got, want)
	}
	if g, ok := GroupByName("@nosuch"); ok {
		t.Errorf("GroupByName(@nosuch) = %v", g)
	}
}

// TestSystemd checks the groups against those of the systemd installed here.
// Only names that both sides know can be compared.
func TestSystemd(t *testing.T) {
	theirs := systemdGroups(t)
	known := map[string]bool{}
	for _, name := range theirs[Known] {
		known[name] = true
	}
	names := allNames()
	for name, members := range theirs {
		g, ok := GroupByName(name)
		if !ok {
			t.Errorf("systemd has a group %s", name)
			continue
		}
		for _, syscall := range members {
			_, ours := slices.BinarySearch(names, syscall)
			if ours && !slices.Contains(g.Syscalls, syscall) {
				t.Errorf("%s lacks %s", name, syscall)
			}
		}
		for _, syscall := range g.Syscalls {
			if known[syscall] && !slices.Contains(members, syscall) && !isNew(syscall) {
				t.Errorf("%s has %s, systemd's has not", name, syscall)
			}
		}
	}
}

// isNew reports whether groups.txt marks the call as younger than its source.
func isNew(syscall string) bool {
	for _, line := range strings.Split(groupsText, "\n") {
		if rest, ok := strings.CutPrefix(line, "\tnew:"); ok && slices.Contains(strings.Fields(rest), syscall) {
			return true
		}
	}
	return false
}

// systemdGroups returns the groups of systemd-analyze, expanded.
func systemdGroups(t *testing.T) map[string][]string {
	out, err := exec.Command("systemd-analyze", "syscall-filter", "--no-pager").Output()
	if err != nil {
		t.Skipf("systemd-analyze syscall-filter: %v", err)
	}
	raw := map[string][]string{}
	group := ""
	for scanner := bufio.NewScanner(bytes.NewReader(out)); scanner.Scan(); {
		switch word := strings.TrimSpace(scanner.Text()); {
		case strings.HasPrefix(scanner.Text(), "@"):
			group = word
		case strings.HasPrefix(scanner.Text(), "#"):
			group = "" // an epilogue about ungrouped calls
		case group != "" && word != "" && word[0] != '#':
			raw[group] = append(raw[group], word)
		}
	}
	var expand func(name string) []string
	expand = func(name string) (members []string) {
		for _, word := range raw[name] {
			if word[0] == '@' {
				members = append(members, expand(word)...)
			} else {
				members = append(members, word)
			}
		}
		return members
	}
	groups := map[string][]string{}
	for name := range raw {
		groups[name] = expand(name)
	}
	if len(groups) < 25 {
		t.Fatalf("systemd-analyze lists %d groups, want at least 25", len(groups))
	}
	return groups
}

func TestParseSections(t *testing.T) {
	if _, err := parseSections("\tread\n"); err == nil {
		t.Error("members without a heading give no error")
	}
	got, err := parseSections("# comment\n\n@a what it is\n\tread new: write\n\t@b\n")
	if err != nil || len(got) != 1 || got[0].rest != "what it is" || !slices.Equal(got[0].words, []string{"read", "write", "@b"}) {
		t.Errorf("parseSections = %+v, %v", got, err)
	}
}

func BenchmarkNumber(b *testing.B) {
	for b.Loop() {
		if _, ok := Number(AMD64, "openat"); !ok {
			b.Fatal("no openat")
		}
	}
}
