package profile

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"

	"bulkhead/internal/policy"
	"bulkhead/internal/syscalls"
)

// systemdOwn is what systemd needs under the filter to start the program.
var systemdOwn = []string{"execve"}

// implicit is the group that systemd adds to every list of allowed calls.
const implicit = "@default"

var systemdArch = map[syscalls.ABI]string{
	syscalls.AMD64: "x86-64", syscalls.I386: "x86", syscalls.X32: "x32", syscalls.ARM64: "arm64",
}

// writeSystemd writes a drop-in. systemd adds @default to what is allowed, so what the policy does not have of it is
// taken away again, but for execve, with which systemd itself starts the program.
func writeSystemd(w io.Writer, p *Profile, _ Options) error {
	names, err := p.names("systemd")
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "# What %s may do. Install as NAME.service.d/bulkhead.conf.\n[Service]\n", p.Policy.Programs[0].Path)
	fmt.Fprintf(out, "NoNewPrivileges=yes\nSystemCallArchitectures=%s\n", systemdArch[p.ABI])
	groups, rest := p.exactGroups(names)
	if p.OnViolation == policy.Audit {
		fmt.Fprint(out, "# audit: nothing is denied, the kernel's log tells what would be\n")
		lines(out, "SystemCallLog=~", append(groups, rest...))
		return out.Flush()
	}
	lines(out, "SystemCallFilter=", append(groups, rest...))
	lines(out, "SystemCallFilter=~", p.unwanted(names))
	if p.OnViolation == policy.Deny {
		fmt.Fprint(out, "# One number for all calls that are denied. Callers of new ones (clone3) have another way on ENOSYS only.\n"+
			"SystemCallErrorNumber=ENOSYS\n")
	}
	return out.Flush()
}

// lines writes assignments of at most 100 columns; systemd joins them.
func lines(w io.Writer, key string, words []string) {
	line := key
	for i, word := range words {
		if len(line)+len(word) > 100 && line != key {
			fmt.Fprintln(w, strings.TrimRight(line, " "))
			line = key
		}
		line += word + " "
		if i == len(words)-1 {
			fmt.Fprintln(w, strings.TrimRight(line, " "))
		}
	}
}

// afterGroups is the first number of amd64 and arm64 that came after systemd 252, from which our groups are.
const afterGroups = 451

// exactGroups finds the groups that allow nothing beyond the names on the program's ABI, the largest first, and the names
// that are in none. Members that a systemd may not have in the group yet are named as well.
func (p *Profile) exactGroups(names []string) (groups, rest []string) {
	covered := map[string]bool{}
	all := syscalls.Groups()
	slices.SortStableFunc(all, func(a, b syscalls.Group) int { return len(b.Syscalls) - len(a.Syscalls) })
	for _, g := range all {
		members := slices.DeleteFunc(slices.Clone(g.Syscalls), func(name string) bool {
			_, ok := syscalls.Number(p.ABI, name)
			return !ok
		})
		fresh := slices.ContainsFunc(members, func(s string) bool { return !covered[s] })
		if g.Name == syscalls.Known || g.Name == implicit || !fresh || !subset(members, names) {
			continue
		}
		groups = append(groups, g.Name)
		for _, name := range members {
			nr, _ := syscalls.Number(p.ABI, name)
			covered[name] = nr < afterGroups
		}
	}
	for _, name := range names {
		if !covered[name] {
			rest = append(rest, name)
		}
	}
	slices.Sort(groups)
	return groups, rest
}

func subset(a, of []string) bool {
	return !slices.ContainsFunc(a, func(s string) bool { _, ok := slices.BinarySearch(of, s); return !ok })
}

// unwanted is what of @default the program's ABI has and the names do not.
func (p *Profile) unwanted(names []string) []string {
	g, _ := syscalls.GroupByName(implicit)
	return slices.DeleteFunc(without(g.Syscalls, append(names, systemdOwn...)), func(name string) bool {
		_, ok := syscalls.Number(p.ABI, name)
		return !ok
	})
}

// ReadSystemd makes the policy of a program of the settings of a unit or drop-in. The group @default, which systemd adds,
// counts, so that execve is among the calls.
func ReadSystemd(data []byte, program string) (*policy.Policy, error) {
	allowed := map[string]bool{}
	seen, section, abi, on := false, "", syscalls.AMD64, policy.Kill
	for n, line := range strings.Split(joinLines(string(data)), "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
			continue
		case line[0] == '[':
			section = line
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("line %d: %q is no setting", n+1, line)
		}
		if section != "[Service]" {
			continue
		}
		var err error
		switch strings.TrimSpace(key) {
		case "SystemCallFilter":
			seen, err = applyFilter(allowed, strings.TrimSpace(value), seen)
		case "SystemCallErrorNumber":
			on = policy.Deny
		case "SystemCallArchitectures":
			abi, err = readArchitectures(strings.Fields(value))
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n+1, err)
		}
	}
	if !seen {
		return nil, fmt.Errorf("there is no SystemCallFilter= in a section [Service]")
	}
	var names []string
	for name := range allowed {
		if _, ok := syscalls.Number(abi, name); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return onePolicy(program, abi, on, names)
}

// joinLines joins lines that end with a backslash, and keeps the number of lines.
func joinLines(text string) string {
	var b strings.Builder
	pending := 0
	for line := range strings.Lines(text) {
		body := strings.TrimRight(line, "\r\n")
		if head, ok := strings.CutSuffix(body, "\\"); ok {
			b.WriteString(head + " ")
			pending++
			continue
		}
		b.WriteString(body + strings.Repeat("\n", pending+1))
		pending = 0
	}
	return b.String()
}

// applyFilter applies one setting: seen says that one came before, which lists what is allowed.
func applyFilter(allowed map[string]bool, value string, seen bool) (bool, error) {
	if value == "" { // resets the list
		clear(allowed)
		return false, nil
	}
	list, minus := strings.CutPrefix(value, "~")
	if minus && !seen {
		return false, fmt.Errorf("SystemCallFilter=~ comes first: it lists what is denied, and a policy lists what is allowed")
	}
	if !seen {
		g, _ := syscalls.GroupByName(implicit)
		for _, s := range g.Syscalls {
			allowed[s] = true
		}
	}
	for _, word := range strings.Fields(list) {
		name, errno, withErrno := strings.Cut(word, ":")
		members := []string{name}
		if strings.HasPrefix(name, "@") {
			g, ok := syscalls.GroupByName(name)
			if !ok {
				return false, fmt.Errorf("unknown group %q", name)
			}
			members = g.Syscalls
		} else if !known(name) {
			return false, fmt.Errorf("no system call is named %q", name)
		}
		if withErrno && errno == "" {
			return false, fmt.Errorf("%q has no error number", word)
		}
		for _, s := range members {
			if minus || withErrno {
				delete(allowed, s)
			} else {
				allowed[s] = true
			}
		}
	}
	return true, nil
}

func readArchitectures(words []string) (syscalls.ABI, error) {
	for _, word := range words {
		if word == "native" {
			return syscalls.AMD64, nil
		}
		for _, abi := range []syscalls.ABI{syscalls.AMD64, syscalls.ARM64} {
			if systemdArch[abi] == word {
				return abi, nil
			}
		}
	}
	return 0, fmt.Errorf("SystemCallArchitectures=%s: want x86-64, arm64 or native", strings.Join(words, " "))
}
