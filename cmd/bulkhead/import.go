package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"bulkhead/internal/attribution"
	"bulkhead/internal/stracelog"
	"bulkhead/internal/syscalls"
)

// importCommand returns the verb that makes documents of other tools' records.
func importCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "import",
		Short: "Make a document of another tool's record",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return fmt.Errorf("give a kind of record: see bulkhead import --help")
		},
	}
	command.AddCommand(importStraceCommand())
	return command
}

func importStraceCommand() *cobra.Command {
	output := outputFlags{stream: os.Stdout}
	var abi string
	var conduits []string
	command := &cobra.Command{
		Use:   "strace [flags] FILE",
		Short: "Make a document of the log of strace -f -k",
		Long: `Strace reads the log that strace -f -k has written, for machines where nobody
may load BPF programs. FILE may be - for standard input.`,
		Example: "  strace -f -k -o redis.log redis-server --version\n  bulkhead import strace redis.log",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := output.check(); err != nil {
				return err
			}
			var options stracelog.Options
			var err error
			if options.ABI, err = syscalls.ParseABI(abi); err != nil {
				return err
			}
			if options.Conduits, err = attribution.NewConduits(conduits...); err != nil {
				return err
			}
			d, err := readStrace(args[0], options)
			if err != nil {
				return err
			}
			return output.write(d)
		},
	}
	output.register(command)
	command.Flags().StringVar(&abi, "abi", "amd64", "`ABI` of the programs: amd64, i386, x32 or arm64")
	command.Flags().StringArrayVar(&conduits, "conduit", nil, "do not charge libraries that match `PATTERN` (repeatable)")
	return command
}

func readStrace(path string, options stracelog.Options) (*attribution.Document, error) {
	if path == "-" {
		return stracelog.Read(os.Stdin, options)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d, err := stracelog.Read(io.Reader(f), options)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}
