package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"bulkhead/internal/analysis"
)

func diffCommand() *cobra.Command {
	var flags analysisFlags
	var format string
	command := &cobra.Command{
		Use:   "diff [flags] A B",
		Short: "Show which system calls compartments or exported functions gained and lost",
		Long: `Diff compares two programs, two versions of a shared library, or two documents.
The exit status is 1 if B can do something that A cannot, so that it can gate a
build.`,
		Example: "  bulkhead diff old/libpng16.so.16 new/libpng16.so.16\n  bulkhead diff before.json after.json",
		Args:    cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if format != "table" && format != "json" {
				return fmt.Errorf("unknown format %q: want table or json", format)
			}
			changes, err := flags.compare(args[0], args[1])
			if err != nil {
				return err
			}
			return writeChanges(os.Stdout, changes, format)
		},
	}
	command.Flags().StringVarP(&format, "output", "o", "table", "output `FORMAT`: table or json")
	flags.register(command)
	return command
}

func (f *analysisFlags) compare(a, b string) ([]analysis.Change, error) {
	libraries := 0
	for _, path := range []string{a, b} {
		if isDocument(path) {
			continue
		}
		is, err := analysis.IsLibrary(path)
		if err != nil {
			return nil, err
		}
		if is {
			libraries++
		}
	}
	switch libraries {
	case 1:
		return nil, fmt.Errorf("cannot compare a shared library with something else: %s, %s", a, b)
	case 2:
		opts, err := f.options()
		if err != nil {
			return nil, err
		}
		before, err := analysis.AnalyzeLibrary(a, opts)
		if err != nil {
			return nil, err
		}
		after, err := analysis.AnalyzeLibrary(b, opts)
		if err != nil {
			return nil, err
		}
		return analysis.DiffLibraries(before, after), nil
	}
	before, err := f.document(a)
	if err != nil {
		return nil, err
	}
	after, err := f.document(b)
	if err != nil {
		return nil, err
	}
	return analysis.DiffDocuments(before, after), nil
}

// dangerNames head the groups of changes.
var dangerNames = map[int]string{3: "critical", 2: "disruptive", 1: "harmless", 0: "unknown"}

// writeChanges prints the changes; a gain makes the exit status 1.
func writeChanges(w io.Writer, changes []analysis.Change, format string) error {
	gained := false
	for _, c := range changes {
		gained = gained || c.Gained
	}
	if format == "json" {
		if changes == nil {
			changes = []analysis.Change{}
		}
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		if err := e.Encode(changes); err != nil {
			return err
		}
	} else {
		danger := -1
		for _, c := range changes {
			if c.Danger != danger {
				danger = c.Danger
				fmt.Fprintf(w, "%s\n", dangerNames[danger])
			}
			writeChange(w, c)
		}
	}
	if gained {
		return exitStatus(1)
	}
	return nil
}

func writeChange(w io.Writer, c analysis.Change) {
	sign, who := "-", c.Compartment
	if c.Gained {
		sign = "+"
	}
	if c.Function != "" {
		who += " " + c.Function
	}
	fmt.Fprintf(w, "  %s %s: %s\n", sign, who, c.Syscall)
	if c.Gained {
		writeStack(w, c.Path)
	}
}
