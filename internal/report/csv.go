package report

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"

	"bulkhead/internal/attribution"
)

// writeCSV writes one record per program, compartment, ABI and system call.
// Lists are joined by semicolons; share is a fraction of the program's calls;
// complete is the program's.
func writeCSV(w io.Writer, d *attribution.Document) error {
	out := csv.NewWriter(w)
	out.Write([]string{"program", "build_id", "arch", "compartment", "abi", "syscall", "nr", "count", "share", "via", "evidence", "complete"})
	for i := range d.Programs {
		p := modelOf(&d.Programs[i])
		for _, c := range p.compartments {
			for _, r := range c.rows {
				out.Write([]string{
					p.Path, p.BuildID, string(p.Arch), c.name, string(r.ABI), r.Name, strconv.Itoa(r.NR),
					strconv.FormatUint(r.Count, 10), strconv.FormatFloat(r.share, 'f', 6, 64),
					strings.Join(r.Via, ";"), join(r.Evidence, ";"), strconv.FormatBool(p.Complete),
				})
			}
		}
	}
	out.Flush()
	if err := out.Error(); err != nil {
		return fmt.Errorf("write CSV: %w", err)
	}
	return nil
}

func join(kinds []attribution.Evidence, separator string) string {
	var b strings.Builder
	for i, k := range kinds {
		if i > 0 {
			b.WriteString(separator)
		}
		b.WriteString(string(k))
	}
	return b.String()
}
