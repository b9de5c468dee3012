// Package examples tests that the examples do what their READMEs say.
package examples

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"bulkhead/internal/kernel"
	"bulkhead/internal/testenv"
)

// commands returns what a README tells to type: its blocks marked sh.
func commands(t *testing.T, readme string) string {
	t.Helper()
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(block[1]) {
			script.WriteString("echo '$ " + strings.TrimSpace(strings.ReplaceAll(line, "'", "")) + "'\n" + line)
		}
	}
	return script.String()
}

// follow copies an example to an empty folder, types what its README says, and returns what each command wrote to both
// outputs, by the command.
func follow(t *testing.T, example string) map[string]string {
	t.Helper()
	for _, tool := range []string{"gcc", "make", "python3", "readelf"} {
		testenv.Tool(t, tool)
	}
	testenv.Require(t, kernel.Require(kernel.Trace))
	testenv.Require(t, kernel.Require(kernel.Supervisor))
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(example)); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(testenv.BuildProgram(t, "cmd/bulkhead"), filepath.Join(bin, "bulkhead")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-e", "-c", commands(t, filepath.Join(example, "README.md")))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "CC=gcc")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	said := map[string]string{}
	for _, part := range strings.Split(string(out), "\n$ ") {
		command, output, _ := strings.Cut(strings.TrimPrefix(part, "$ "), "\n")
		said[command] = output
	}
	return said
}

// expect checks what a command wrote: patterns that begin with ! must not match.
func expect(t *testing.T, said map[string]string, command string, patterns ...string) {
	t.Helper()
	output, ok := said[command]
	if !ok {
		t.Errorf("the README does not have %q", command)
	}
	for _, pattern := range patterns {
		pattern, not := strings.CutPrefix(pattern, "!")
		if regexp.MustCompile("(?m)"+pattern).MatchString(output) == not {
			t.Errorf("$ %s\n%s\nmatches %q: %t", command, output, pattern, not)
		}
	}
}

const shell = "ATTACKER: this is a shell"

// TestTwoCompartments: the parser's bug gives a shell without a filter and under one filter, and none under a filter for
// each library, where the other library's execve goes on working.
func TestTwoCompartments(t *testing.T) {
	said := follow(t, "two-compartments")
	expect(t, said, "bulkhead report station.json", `^librotate\.so .*execve 1`, `!^libseries\.so .*execve`, "complete: no losses")
	expect(t, said, "./station evil.series good.series", shell, "!readings")
	expect(t, said, "./under-filter union.bpf ./station good.series", "^good.series: 1 readings$", "^the log has been rotated$")
	expect(t, said, "./under-filter union.bpf ./station evil.series good.series", shell, "!readings")
	expect(t, said, "bulkhead run --policy station.policy -- ./station evil.series good.series", "!"+shell,
		`^bulkhead: libseries\.so may not call execve\("/bin/sh", .*: denied with EPERM`, `decided by station.policy:\d+`,
		"^evil.series: not a series$", "^good.series: 1 readings$", "^the log has been rotated$")
}

const update = "SUPPLY CHAIN: the update runs a command"

// TestSupplyChain: what an update does when it is loaded fails the comparison, and does not happen under the policy of the
// version before.
func TestSupplyChain(t *testing.T) {
	said := follow(t, "supply-chain")
	expect(t, said, "LD_LIBRARY_PATH=1.1 ./invoice", update, "19.90")
	for _, version := range []string{"1.1", "1.2"} {
		expect(t, said, "bulkhead diff 1.0/libpad.so "+version+`/libpad.so || echo "the build fails: $?"`,
			`^critical\n +\+ libpad\.so \[load\]: execve$`, `^ +\+ libpad\.so \[load\]: socket$`, "^the build fails: 1$")
		expect(t, said, "LD_LIBRARY_PATH="+version+" bulkhead run --policy invoice.policy -- ./invoice", "!"+update,
			`^bulkhead: libpad\.so may not call socket\(`, `^bulkhead: libpad\.so may not call (clone|fork)\(`, "^ +19.90$")
	}
	expect(t, said, "LD_LIBRARY_PATH=1.0 bulkhead run --policy invoice.policy -- ./invoice", "!may not call", "^ +19.90$")
}
