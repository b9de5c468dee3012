package main

import (
	"os"

	"github.com/spf13/cobra"
)

// reportCommand returns the verb that shows documents, made earlier or elsewhere, merged into one.
func reportCommand() *cobra.Command {
	output := outputFlags{stream: os.Stdout}
	command := &cobra.Command{
		Use:   "report [flags] DOC...",
		Short: "Show attribution documents, merged into one",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, paths []string) error {
			if err := output.check(); err != nil {
				return err
			}
			d, err := readDocuments(paths)
			if err != nil {
				return err
			}
			return output.write(d)
		},
	}
	output.register(command)
	return command
}
