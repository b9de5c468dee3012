package syscalls

import (
	"slices"
	"strings"
	"sync"
)

// A Group is a named set of system calls.
type Group struct {
	Name     string   // with the @, "@file-system"
	Doc      string   // what it is for
	Syscalls []string // names, sorted; those of included groups are among them
}

// Known is the name of the group of all system calls of all ABIs.
const Known = "@known"

// Groups returns all groups by name.
func Groups() []Group { return slices.Clone(groups().sorted) }

// GroupByName returns the group with the name given, which starts with @.
func GroupByName(name string) (Group, bool) {
	g, ok := groups().byName[name]
	return g, ok
}

// GroupsOf returns the names of the groups, sorted, that the system call is a
// member of. A call in no group but Known has that one only.
func GroupsOf(syscall string) []string { return slices.Clone(groups().of[syscall]) }

type groupIndex struct {
	sorted []Group
	byName map[string]Group
	of     map[string][]string
}

var groups = sync.OnceValue(func() groupIndex {
	x := groupIndex{byName: map[string]Group{}, of: map[string][]string{}}
	for _, s := range mustParse("groups.txt", groupsText) {
		x.byName[s.key] = Group{Name: s.key, Doc: s.rest, Syscalls: s.words}
	}
	x.byName[Known] = Group{Name: Known, Doc: "Every system call of every ABI", Syscalls: allNames()}
	for _, g := range x.byName {
		g.Syscalls = x.expand(g, nil)
		x.sorted = append(x.sorted, g)
	}
	slices.SortFunc(x.sorted, func(a, b Group) int { return strings.Compare(a.Name, b.Name) })
	for _, g := range x.sorted {
		x.byName[g.Name] = g
		for _, syscall := range g.Syscalls {
			x.of[syscall] = append(x.of[syscall], g.Name)
		}
	}
	return x
})

// expand replaces included groups by their members. The files have no cycles:
// a group includes others that include none.
func (x groupIndex) expand(g Group, names []string) []string {
	for _, word := range g.Syscalls {
		if strings.HasPrefix(word, "@") {
			names = x.expand(x.byName[word], names)
		} else {
			names = append(names, word)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// allNames returns the names of all tables, sorted and unique.
func allNames() (names []string) {
	for abi := range tables {
		for _, name := range All(ABI(abi)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
