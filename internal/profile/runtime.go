package profile

import (
	_ "embed"
	"slices"
	"strings"
)

//go:embed runtime.txt
var runtimeText string

// runtimeComment labels the group in profiles.
const runtimeComment = "start-up of the container runtime (runc, crun), not of the program"

// runtimeGroup returns the calls that container runtimes make under the filter, sorted.
func runtimeGroup() []string {
	var names []string
	for line := range strings.Lines(runtimeText) {
		if strings.HasPrefix(line, "\t") {
			names = append(names, strings.Fields(line)...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
