package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"bulkhead/internal/attribution"
	"bulkhead/internal/policy"
	"bulkhead/internal/profile"
	"bulkhead/internal/stracelog"
	"bulkhead/internal/syscalls"
)

// importCommand returns the verb that makes documents and policies of other tools' files.
func importCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "import",
		Short: "Make a document of another tool's record, or a policy of its filter",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return fmt.Errorf("give a kind of file: see bulkhead import --help")
		},
	}
	command.AddCommand(importStraceCommand())
	for _, kind := range importKinds {
		command.AddCommand(importPolicyCommand(kind))
	}
	return command
}

// importKind is a kind of file that becomes a policy.
type importKind struct {
	use, short, long string
	read             func(data []byte, program string) (*policy.Policy, error)
}

var importKinds = []importKind{
	{"oci", "Make a policy of the seccomp profile of a container", `Oci makes a policy with one compartment of an OCI seccomp profile. What the
profile allows for the start-up of the container runtime is left out.`, profile.ReadOCI},
	{"systemd", "Make a policy of SystemCallFilter= of a service", `Systemd makes a policy with one compartment of a unit or drop-in of systemd. The
group @default, which systemd allows on its own, is among the calls.`, profile.ReadSystemd},
	{"flexos", "Make a policy of the compartments in FlexOS' kraft.yaml", `Flexos makes a policy with the compartments of a kraft.yaml: each has the files
of its libraries, by pattern, and allows nothing yet.`, profile.ReadFlexOS},
}

func importPolicyCommand(kind importKind) *cobra.Command {
	var program, out string
	command := &cobra.Command{
		Use:     kind.use + " --program PATH [flags] FILE",
		Short:   kind.short,
		Long:    kind.long,
		Example: "  bulkhead import " + kind.use + " --program /usr/sbin/nginx FILE --out nginx.policy",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if program == "" {
				return errors.New("give the program that the policy is for with --program PATH")
			}
			data, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			p, err := kind.read(data, program)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			text, err := p.Text()
			if err != nil {
				return err
			}
			if out == "" {
				_, err = os.Stdout.Write(text)
				return err
			}
			return writeFile(out, text)
		},
	}
	command.Flags().StringVar(&program, "program", "", "the absolute `PATH` of the program that the policy is for")
	command.Flags().StringVar(&out, "out", "", "write the policy to `FILE`")
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
