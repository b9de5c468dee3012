package trace

import (
	"slices"
	"strings"
	"testing"

	"bulkhead/internal/attribution"
	"bulkhead/internal/testenv"
)

// TestMappedObjects: a library is among the objects though it was on no stack.
func TestMappedObjects(t *testing.T) {
	doc := run(t, options(t), testenv.Tool(t, "git"), "--version")
	if !slices.ContainsFunc(doc.Programs[0].Objects, func(o attribution.Object) bool { return strings.HasPrefix(o.Name, "libz.so.1") }) {
		t.Errorf("libz, which git is linked with, is not among %+v", doc.Programs[0].Objects)
	}
}
