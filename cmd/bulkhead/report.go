package main

import (
	"os"

	"github.com/spf13/cobra"

	"bulkhead/internal/attribution"
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
			docs := make([]*attribution.Document, len(paths))
			for i, path := range paths {
				doc, err := attribution.ReadFile(path)
				if err != nil {
					return err
				}
				docs[i] = doc
			}
			return output.write(attribution.Merge(docs...))
		},
	}
	output.register(command)
	return command
}
