package policy

import (
	"fmt"
	"strings"

	"bulkhead/internal/attribution"
)

// IncompleteError says that documents lost something, so that a policy derived
// from them would deny what the programs need.
type IncompleteError struct {
	// Losses has a line for each program that lost something.
	Losses []string
}

func (e *IncompleteError) Error() string {
	return fmt.Sprintf("the evidence is incomplete: %s. Trace the program and derive from both documents, "+
		"or accept that the policy may lack calls with --allow-incomplete", strings.Join(e.Losses, "; "))
}

// incomplete returns what the document lost, or nil.
func incomplete(d *attribution.Document) *IncompleteError {
	var e IncompleteError
	for i := range d.Programs {
		if p := &d.Programs[i]; !p.Complete {
			e.Losses = append(e.Losses, p.Path+": "+losses(&p.Losses))
		}
	}
	if e.Losses == nil {
		return nil
	}
	return &e
}

func losses(l *attribution.Losses) string {
	var out []string
	for _, loss := range []struct {
		n    uint64
		what string
	}{
		{l.LostEvents, "calls not recorded"},
		{l.Unattributed, "calls charged to [unknown]"},
		{l.BrokenStacks, "calls with a stack that ended early"},
		{uint64(len(l.UnresolvedSites)), "places in the code that make a call of unknown number"},
		{uint64(len(l.OpenEnds)), "places that lead to code not seen"},
	} {
		if loss.n > 0 {
			out = append(out, fmt.Sprintf("%d %s", loss.n, loss.what))
		}
	}
	return strings.Join(out, ", ")
}
