package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"bulkhead/internal/kernel"
)

// doctorCommand returns the verb that tells what this machine supports. Its
// error is exitStatus(1), after its output, where tracing does not work.
func doctorCommand() *cobra.Command {
	var format string
	command := &cobra.Command{
		Use:   "doctor",
		Short: "Tell what this machine supports, what is missing, and the remedy",
		Long: `Doctor probes what this kernel lets this user do, says what follows for
tracing and enforcing, and gives the exact remedy for each thing missing.
It exits with 0 where tracing works, else with 1.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			survey := kernel.Look()
			if err := writeSurvey(command.OutOrStdout(), survey, format); err != nil {
				return err
			}
			if !survey.Works(kernel.Trace) {
				return exitStatus(1)
			}
			return nil
		},
	}
	command.Flags().StringVarP(&format, "output", "o", "table", "output format: table or json")
	return command
}

// exitStatus is the error of a verb whose output has said all there is to say:
// main exits with it and prints nothing.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

func writeSurvey(w io.Writer, survey *kernel.Survey, format string) error {
	switch format {
	case "table":
		return survey.WriteText(w, colours(w))
	case "json":
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(survey)
	}
	return fmt.Errorf("unknown output format %q: want table or json", format)
}

// colours tells whether w is a terminal that may get them (no-color.org).
func colours(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(file.Fd()))
}
