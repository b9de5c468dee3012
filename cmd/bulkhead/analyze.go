package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"bulkhead/internal/analysis"
	"bulkhead/internal/attribution"
	"bulkhead/internal/dso"
)

// analysisFlags say how programs are analysed; analyze, explain and diff have
// them.
type analysisFlags struct {
	sysroot  string
	with     []string
	conduits []string
	goBy     goByFlag
	noCache  bool
	leaveOut bool
}

func (f *analysisFlags) register(command *cobra.Command) {
	command.Flags().StringVar(&f.sysroot, "sysroot", "", "look for the program and its libraries below `DIR`, an unpacked image")
	command.Flags().StringArrayVar(&f.with, "with", nil, "a `LIB` that the program opens at run time (repeatable)")
	f.goBy.register(command)
	command.Flags().StringArrayVar(&f.conduits, "conduit", nil, "do not charge libraries that match `PATTERN` (repeatable)")
	command.Flags().BoolVar(&f.leaveOut, "no-plugins", false, "do not follow known plug-ins (NSS, PAM, ...): list them as open ends")
	command.Flags().BoolVar(&f.noCache, "no-cache", false, "neither read nor write summaries of libraries")
}

// options returns the analysis' options. What goes wrong with the cache is said
// and does not stop the analysis.
func (f *analysisFlags) options() (analysis.Options, error) {
	// The analysis is short and its memory small: collect less often.
	debug.SetGCPercent(400)
	conduits, err := attribution.NewConduits(f.conduits...)
	if err != nil {
		return analysis.Options{}, err
	}
	opts := analysis.Options{
		Loading:  dso.Options{Sysroot: f.sysroot, With: f.with},
		Conduits: conduits,
		GoBy:     f.goBy.GoBy,
		LeaveOut: f.leaveOut,
		Progress: slowProgress(),
	}
	if !f.noCache {
		if opts.Summaries, err = analysis.OpenCache(""); err != nil {
			fmt.Fprintf(os.Stderr, "bulkhead: without a cache of summaries: %v\n", err)
		}
	}
	return opts, nil
}

// slowProgress names the files that are read once the analysis takes longer than
// a second and somebody watches.
func slowProgress() func(string) {
	if !term.IsTerminal(int(os.Stderr.Fd())) {
		return nil
	}
	start := time.Now()
	return func(path string) {
		if time.Since(start) > time.Second {
			fmt.Fprintf(os.Stderr, "bulkhead: reading %s\n", path)
		}
	}
}

func analyzeCommand() *cobra.Command {
	var flags analysisFlags
	output := outputFlags{stream: os.Stdout}
	command := &cobra.Command{
		Use:   "analyze [flags] PROGRAM",
		Short: "Attribute the system calls that a program's files can cause to its libraries",
		Long: `Analyze reads a program and the libraries that it loads, runs nothing, and says
which system calls each of them can cause: a superset of what can happen.`,
		Example: "  bulkhead analyze /usr/sbin/nginx\n  bulkhead analyze --sysroot rootfs -o json --out app.json /usr/bin/app",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := output.check(); err != nil {
				return err
			}
			opts, err := flags.options()
			if err != nil {
				return err
			}
			doc, err := analysis.Document(args[0], opts)
			if err != nil {
				return err
			}
			return output.write(doc)
		},
	}
	output.register(command)
	flags.register(command)
	return command
}
