package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manCommand returns the verb that the build makes the manual with.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the manual pages to a folder",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return writeManual(command.Root(), args[0])
		},
	}
}

// writeManual writes a page for a command and for each of its verbs.
func writeManual(command *cobra.Command, dir string) error {
	name := strings.ReplaceAll(command.CommandPath(), " ", "-")
	var page strings.Builder
	writePage(&page, command, name)
	if err := os.WriteFile(filepath.Join(dir, name+".1"), []byte(page.String()), 0o666); err != nil {
		return err
	}
	for _, verb := range verbs(command) {
		if err := writeManual(verb, dir); err != nil {
			return err
		}
	}
	return nil
}

func verbs(command *cobra.Command) []*cobra.Command {
	var shown []*cobra.Command
	for _, verb := range command.Commands() {
		if verb.IsAvailableCommand() && verb.Name() != "completion" {
			shown = append(shown, verb)
		}
	}
	return shown
}

// writePage writes a page in the macros of man(7).
func writePage(w io.Writer, command *cobra.Command, name string) {
	text := command.Long
	if text == "" {
		text = command.Short + "."
	}
	fmt.Fprintf(w, ".TH %s 1\n.SH NAME\n%s \\- %s\n", strings.ToUpper(roff(name)), roff(name), roff(command.Short))
	fmt.Fprintf(w, ".SH SYNOPSIS\n.B %s\n.SH DESCRIPTION\n%s\n", roff(command.UseLine()), roff(text))
	if command.HasAvailableLocalFlags() {
		fmt.Fprint(w, ".SH OPTIONS\n")
		command.LocalFlags().VisitAll(func(flag *pflag.Flag) { writeFlag(w, flag) })
	}
	if command.Example != "" {
		fmt.Fprintf(w, ".SH EXAMPLES\n.nf\n%s\n.fi\n", roff(command.Example))
	}
	if related := verbs(command); len(related) > 0 {
		fmt.Fprint(w, ".SH VERBS\n")
		for _, verb := range related {
			fmt.Fprintf(w, ".TP\n.BR %s (1)\n%s\n", roff(strings.ReplaceAll(verb.CommandPath(), " ", "-")), roff(verb.Short))
		}
	}
}

func writeFlag(w io.Writer, flag *pflag.Flag) {
	value, usage := pflag.UnquoteUsage(flag)
	name := "--" + flag.Name
	if flag.Shorthand != "" {
		name = "-" + flag.Shorthand + ", " + name
	}
	fmt.Fprintf(w, ".TP\n.B %s %s\n%s\n", roff(name), roff(value), roff(usage))
}

// roff escapes text: hyphens that are to be copied, backslashes, and what would be a request at the start of a line.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
