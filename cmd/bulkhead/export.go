package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"bulkhead/internal/attribution"
	"bulkhead/internal/filecache"
	"bulkhead/internal/policy"
	"bulkhead/internal/profile"
)

type exportFlags struct {
	format     string
	out        string
	into       string
	noRuntime  bool
	incomplete bool
}

// exportCommand returns the verb that writes policies in other tools' formats.
func exportCommand() *cobra.Command {
	var flags exportFlags
	var about strings.Builder
	var names []string
	for _, f := range profile.Formats {
		fmt.Fprintf(&about, "\n  %-11s %s", f.Name, f.About)
		names = append(names, f.Name)
	}
	command := &cobra.Command{
		Use:   "export --format FORMAT [flags] POLICY|DOC",
		Short: "Write a policy as a filter for containers, services, seccomp(2) or a library OS",
		Long: `Export writes what a policy allows in another tool's format, or what a document
has evidence of. Where the format has one filter for the whole process, that is
the union of all compartments of all programs. The formats:
` + about.String(),
		Example: "  bulkhead export --format oci --out profile.json nginx.policy\n" +
			"  bulkhead export --format cyclonedx --into sbom.json --out sbom.json nginx.json",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return flags.export(args[0]) },
	}
	f := command.Flags()
	f.StringVarP(&flags.format, "format", "f", "", "the `FORMAT`: "+strings.Join(names, ", "))
	f.StringVar(&flags.out, "out", "", "write to `FILE`")
	f.StringVar(&flags.into, "into", "", "cyclonedx: add to the components of the bill of materials in `FILE`")
	f.BoolVar(&flags.noRuntime, "no-runtime", false, "oci, kubernetes: leave out what the container runtime needs to start the program")
	f.BoolVar(&flags.incomplete, "allow-incomplete", false, "take a document although evidence was lost")
	return command
}

func (f *exportFlags) export(path string) error {
	if f.format == "" {
		return errors.New("give a format with --format: see bulkhead export --help")
	}
	if f.into != "" && f.format != "cyclonedx" {
		return fmt.Errorf("--into is for --format cyclonedx, not %s", f.format)
	}
	if f.out != "" {
		if err := writable(f.out); err != nil {
			return err
		}
	}
	p, d, err := f.read(path)
	if err != nil {
		return err
	}
	options := profile.Options{NoRuntime: f.noRuntime, Document: d}
	if f.into != "" {
		if options.Into, err = os.ReadFile(f.into); err != nil {
			return err
		}
	}
	write := func(w io.Writer) error { return profile.Write(w, f.format, p, options) }
	if f.out != "" {
		return filecache.Replace(f.out, write)
	}
	return write(os.Stdout)
}

// read reads a policy, or derives the one of a document, without the baseline of harmless calls.
func (f *exportFlags) read(path string) (*policy.Policy, *attribution.Document, error) {
	if !isDocument(path) {
		p, err := policy.Load(path)
		return p, nil, err
	}
	d, err := attribution.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	p, err := policy.Derive(d, policy.Options{Incomplete: f.incomplete})
	return p, d, err
}
