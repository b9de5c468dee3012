package profile

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/internal/policy"
	"bulkhead/internal/syscalls"
)

// writeHeader writes a table of bits for each program: a row for each compartment, a bit for each system call number of
// the program's ABI. It needs C99 and no other header than stdint.h.
func writeHeader(w io.Writer, p *policy.Policy, _ Options) error {
	out := bufio.NewWriter(w)
	fmt.Fprint(out, "/* Which compartment may make which system call. Include it where the shim decides.\n"+
		" * A call that a compartment may not make fails with EPERM, or with ENOSYS if its number is at least ..._YOUNG:\n"+
		" * callers of new calls have another way on ENOSYS only. */\n"+
		"#ifndef BULKHEAD_POLICY_H\n#define BULKHEAD_POLICY_H\n\n#include <stdint.h>\n")
	taken := map[string]int{}
	for i := range p.Programs {
		program := &p.Programs[i]
		rules, _ := p.Rules(program.Path)
		name := identifier(path.Base(program.Path))
		taken[name]++
		if n := taken[name]; n > 1 {
			name = fmt.Sprintf("%s_%d", name, n)
		}
		writeTable(out, name, rules)
	}
	fmt.Fprint(out, "\n#endif\n")
	return out.Flush()
}

func writeTable(w io.Writer, name string, rules *policy.Rules) {
	abi := rules.Program.ABI
	last := 0
	for nr := range syscalls.All(abi) {
		last = nr
	}
	young := 0
	for rules.Errno(abi, young) != unix.ENOSYS {
		young++
	}
	words := (last &^ syscalls.X32Bit) / 64
	upper := strings.ToUpper(name)
	fmt.Fprintf(w, "\n/* %s (%s) */\nenum %s_compartment {\n", rules.Program.Path, abi, name)
	taken := map[string]int{}
	for id := range policy.ID(rules.Len()) {
		label := upper + "_" + strings.ToUpper(identifier(rules.Name(id)))
		taken[label]++
		if n := taken[label]; n > 1 {
			label = fmt.Sprintf("%s_%d", label, n)
		}
		fmt.Fprintf(w, "\t%s = %d, /* %s */\n", label, id, comment(rules.Name(id)))
	}
	fmt.Fprintf(w, "\t%s_COMPARTMENTS = %d\n};\n\n", upper, rules.Len())
	fmt.Fprintf(w, "static const uint64_t %s_allowed[%s_COMPARTMENTS][%d] = {\n", name, upper, words+1)
	for id := range policy.ID(rules.Len()) {
		row := make([]uint64, words+1)
		for nr := range syscalls.All(abi) {
			if n := nr &^ syscalls.X32Bit; rules.Allows(id, abi, nr) {
				row[n/64] |= 1 << (n % 64)
			}
		}
		fmt.Fprint(w, "\t{")
		for i, bits := range row {
			if i > 0 {
				fmt.Fprint(w, ", ")
			}
			fmt.Fprintf(w, "%#016xu", bits)
		}
		fmt.Fprint(w, "},\n")
	}
	fmt.Fprintf(w, "};\n\nenum { %s_YOUNG = %d };\n", upper, young)
	fmt.Fprintf(w, "\nstatic inline int %s_allows(unsigned compartment, unsigned long nr)\n{\n"+
		"\treturn compartment < %s_COMPARTMENTS && nr < %d && (%s_allowed[compartment][nr / 64] >> (nr %% 64) & 1);\n}\n",
		name, upper, 64*(words+1), name)
}

var notIdentifier = regexp.MustCompile(`[^A-Za-z0-9]+`)

// identifier makes a name of C of any.
func identifier(name string) string {
	id := strings.Trim(notIdentifier.ReplaceAllString(name, "_"), "_")
	if id == "" || id[0] >= '0' && id[0] <= '9' {
		id = "c" + id
	}
	return strings.ToLower(id)
}

// comment keeps a name from ending the comment that it is in.
func comment(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '*' || r == '\n' || r == '\\' || r == '?' {
			return '.'
		}
		return r
	}, name)
}
