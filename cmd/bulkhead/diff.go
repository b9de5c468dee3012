package main

import (
	"bufio"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"bulkhead/internal/analysis"
	"bulkhead/internal/report"
)

func diffCommand() *cobra.Command {
	var flags analysisFlags
	output := outputFlags{stream: os.Stdout, formats: rowFormats}
	command := &cobra.Command{
		Use:   "diff [flags] A B",
		Short: "Show which system calls compartments or exported functions gained and lost",
		Long: `Diff compares two programs, two versions of a shared library, or two documents.
The exit status is 1 if B can do something that A cannot, so that it can gate a
build.`,
		Example: "  bulkhead diff old/libpng16.so.16 new/libpng16.so.16\n  bulkhead diff before.json after.json",
		Args:    cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := output.check(); err != nil {
				return err
			}
			changes, err := flags.compare(args[0], args[1])
			if err != nil {
				return err
			}
			if err := output.writeResult(changesResult(changes)); err != nil {
				return err
			}
			if analysis.Gains(changes) {
				return exitStatus(1)
			}
			return nil
		},
	}
	output.registerPlain(command)
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
		before, err := analysis.Analyze(a, opts)
		if err != nil {
			return nil, err
		}
		after, err := analysis.Analyze(b, opts)
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

func changesResult(changes []analysis.Change) result {
	return result{
		table: func(w io.Writer, _ report.Options) error { return writeChanges(w, changes) },
		json:  changes,
		rows:  rowsOf(analysis.ChangeRows(changes)),
	}
}

func writeChanges(w io.Writer, changes []analysis.Change) error {
	out := bufio.NewWriter(w)
	danger := -1
	for _, c := range changes {
		if c.Danger != danger {
			danger = c.Danger
			fmt.Fprintf(out, "%s\n", dangerNames[danger])
		}
		writeChange(out, c)
	}
	return out.Flush()
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
