package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"bulkhead/internal/enforce/inkernel"
	"bulkhead/internal/kernel"
	"bulkhead/internal/report"
)

// doctorCommand returns the verb that tells what this machine supports. Its
// error is exitStatus(1), after its output, where tracing does not work.
func doctorCommand() *cobra.Command {
	output := outputFlags{formats: rowFormats}
	var hooks, clean bool
	command := &cobra.Command{
		Use:   "doctor",
		Short: "Tell what this machine supports, what is missing, and the remedy",
		Long: `Doctor probes what this kernel lets this user do, says what follows for
tracing and enforcing, and gives the exact remedy for each thing missing.
It exits with 0 where tracing works, else with 1.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			output.stream = command.OutOrStdout()
			switch err := output.check(); {
			case err != nil:
				return err
			case hooks:
				return writeHooks(output.stream)
			case clean:
				return cleanLeftovers()
			}
			survey := kernel.Look()
			if err := output.writeResult(surveyResult(survey)); err != nil {
				return err
			}
			noteLeftovers()
			if !survey.Works(kernel.Trace) {
				return exitStatus(1)
			}
			return nil
		},
	}
	output.registerPlain(command)
	command.Flags().BoolVar(&hooks, "hooks", false, "list what becomes of each call that run's kernel backend denies")
	command.Flags().BoolVar(&clean, "clean", false, "remove policies in force for nobody, whose bulkhead was killed")
	command.MarkFlagsMutuallyExclusive("hooks", "clean")
	return command
}

// writeHooks prints what becomes of each call that LSM hooks can deny.
func writeHooks(w io.Writer) error {
	all, err := inkernel.Coverages()
	if err != nil {
		return err
	}
	for _, c := range all {
		becomes := "denied by " + strings.Join(c.Hooks, ", ")
		switch {
		case c.Late:
			becomes = "killed, maybe after its effect"
		case len(c.Hooks) == 0:
			becomes = "killed before its effect"
		}
		if _, err := fmt.Fprintf(w, "%-14s %s\n", c.Call, becomes); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(w, "all others     killed at their entry")
	return err
}

// noteLeftovers tells what is in force although its bulkhead was killed.
func noteLeftovers() {
	left, err := inkernel.Leftovers()
	if err != nil {
		return // only root may look
	}
	for _, l := range left {
		if l.Threads > 0 {
			note("%s: bulkhead was killed, and its policy stays in force for %d threads", l.Dir, l.Threads)
		} else {
			note("%s: bulkhead was killed, and its policy is in force for nobody: bulkhead doctor --clean removes it", l.Dir)
		}
	}
}

func cleanLeftovers() error {
	left, err := inkernel.Leftovers()
	for _, l := range left {
		if l.Threads > 0 {
			note("%s stays: %d threads are under its policy", l.Dir, l.Threads)
			continue
		}
		err = errors.Join(err, l.Remove())
	}
	return err
}

// exitStatus is the error of a verb whose output has said all there is to say:
// main exits with it and prints nothing.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

func surveyResult(survey *kernel.Survey) result {
	return result{
		table: func(w io.Writer, o report.Options) error { return survey.WriteText(w, o.Colour) },
		json:  survey,
		rows:  rowsOf(survey.Rows()),
	}
}

// terminal returns the terminal that w is.
func terminal(w io.Writer) (file *os.File, ok bool) {
	file, ok = w.(*os.File)
	return file, ok && term.IsTerminal(int(file.Fd()))
}

// colours tells whether a terminal may get them (no-color.org).
func colours() bool { return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" }
