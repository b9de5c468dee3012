// Bulkhead finds out which library inside a process causes which system call.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// Exit statuses besides 0 and those of the verbs themselves.
const (
	exitUsage         = 2   // wrong usage or bad input
	exitOwnFailure    = 125 // trace and run: Bulkhead failed, not the command
	exitNotExecutable = 126 // trace and run: the command cannot be executed
	exitNotFound      = 127 // trace and run: there is no such command
)

func main() {
	os.Exit(run(rootCommand()))
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "bulkhead",
		Short:         "Find out which library causes which system call",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(
		traceCommand(), runCommand(), analyzeCommand(), policyCommand(), explainCommand(), diffCommand(), reportCommand(),
		statsCommand(), exportCommand(), importCommand(), doctorCommand(), manCommand(),
	)
	return root
}

// failure is an error with the exit status that it leads to.
type failure struct {
	status int
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func run(root *cobra.Command) int {
	err := root.Execute()
	var status exitStatus
	var failed *failure
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	fmt.Fprintf(os.Stderr, "bulkhead: %s\n", oneLine(err.Error()))
	if errors.As(err, &failed) {
		return failed.status
	}
	return exitUsage
}

// oneLine joins the lines of several errors.
func oneLine(text string) string { return strings.ReplaceAll(text, "\n", "; ") }
