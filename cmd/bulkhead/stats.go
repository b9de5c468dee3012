package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"bulkhead/internal/attribution"
	"bulkhead/internal/report"
	"bulkhead/internal/stats"
)

// statsCommand returns the verb that measures what dividing programs brings.
func statsCommand() *cobra.Command {
	output := outputFlags{stream: os.Stdout, formats: rowFormats}
	var evidence, of, figures string
	command := &cobra.Command{
		Use:   "stats [flags] DOC...",
		Short: "Measure what a filter for each library takes away against one for the program",
		Long: `Stats counts each compartment's system calls, how far compartments overlap, and
the privilege that a filter for each takes away against one filter for the whole
program: each call weighs its danger class, 1 to 3; a divided program has the
privilege of its most privileged compartment.`,
		Example: "  bulkhead stats redis.json nginx.json\n  bulkhead stats --figures figures -o stats.csv redis.json",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, paths []string) error {
			if err := output.check(); err != nil {
				return err
			}
			kinds, err := evidenceOf(evidence)
			if err != nil {
				return err
			}
			d, err := readDocuments(paths)
			if err != nil {
				return err
			}
			programs := stats.Of(d, kinds...)
			shown, err := statsResult(programs, of)
			if err != nil {
				return err
			}
			if figures != "" {
				if err := report.WriteFigures(figures, programs); err != nil {
					return err
				}
			}
			return output.writeResult(shown)
		},
	}
	output.register(command)
	command.Flags().StringVar(&evidence, "evidence", "", "take only calls with this `EVIDENCE`: static or traced (default: either)")
	command.Flags().StringVar(&of, "rows", "compartments", "csv, parquet: one row for each of `WHAT`: compartments, pairs or shared calls")
	command.Flags().StringVar(&figures, "figures", "", "draw figures as SVG files into the folder `DIR`")
	return command
}

func evidenceOf(name string) ([]attribution.Evidence, error) {
	switch e := attribution.Evidence(name); e {
	case "":
		return nil, nil
	case attribution.Static, attribution.Traced:
		return []attribution.Evidence{e}, nil
	}
	return nil, fmt.Errorf("unknown evidence %q: want static or traced", name)
}

func statsResult(programs []stats.Program, of string) (result, error) {
	r := result{
		table: func(w io.Writer, o report.Options) error { return report.WriteStats(w, programs, o) },
		json:  programs,
	}
	switch of {
	case "compartments":
		r.rows = rowsOf(stats.CompartmentRows(programs))
	case "pairs":
		r.rows = rowsOf(stats.PairRows(programs))
	case "shared":
		r.rows = rowsOf(stats.SharedRows(programs))
	default:
		return r, fmt.Errorf("unknown rows %q: want compartments, pairs or shared", of)
	}
	return r, nil
}

// readDocuments reads and merges documents.
func readDocuments(paths []string) (*attribution.Document, error) {
	docs := make([]*attribution.Document, len(paths))
	for i, path := range paths {
		doc, err := attribution.ReadFile(path)
		if err != nil {
			return nil, err
		}
		docs[i] = doc
	}
	return attribution.Merge(docs...), nil
}
