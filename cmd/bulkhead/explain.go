package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"bulkhead/internal/analysis"
	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

func explainCommand() *cobra.Command {
	var flags analysisFlags
	var format string
	command := &cobra.Command{
		Use:   "explain [flags] DOC|PROGRAM COMPARTMENT SYSCALL",
		Short: "Show why a library can make a system call: the path in the code, the stack seen",
		Long: `Explain prints the shortest path from a compartment's code to the instruction that
makes the system call, function by function, or the stack seen where the call
was traced. The exit status is 1 if the compartment does not make the call.`,
		Example: "  bulkhead explain /usr/sbin/nginx libcrypto.so.3 openat\n  bulkhead explain redis.json redis-server execve",
		Args:    cobra.ExactArgs(3),
		RunE: func(_ *cobra.Command, args []string) error {
			if format != "table" && format != "json" {
				return fmt.Errorf("unknown format %q: want table or json", format)
			}
			doc, err := flags.document(args[0])
			if err != nil {
				return err
			}
			return explain(os.Stdout, doc, args[1], args[2], format)
		},
	}
	command.Flags().StringVarP(&format, "output", "o", "table", "output `FORMAT`: table or json")
	flags.register(command)
	return command
}

// document reads a document, or analyses the program that path names.
func (f *analysisFlags) document(path string) (*attribution.Document, error) {
	if isDocument(path) {
		return attribution.ReadFile(path)
	}
	opts, err := f.options()
	if err != nil {
		return nil, err
	}
	result, err := analysis.Analyze(path, opts)
	if err != nil {
		return nil, err
	}
	return result.Document(), nil
}

// isDocument reports whether the file at path starts like JSON.
func isDocument(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 64)
	n, _ := f.Read(head)
	return strings.HasPrefix(strings.TrimLeft(string(head[:n]), " \t\r\n"), "{")
}

// explain prints every entry of the document for a compartment and a call.
func explain(w io.Writer, doc *attribution.Document, compartment, call, format string) error {
	found := false
	known := false
	for i := range doc.Programs {
		p := &doc.Programs[i]
		c := p.Compartment(compartment)
		if c == nil {
			continue
		}
		known = true
		for j := range c.Syscalls {
			s := &c.Syscalls[j]
			if s.Name != call && s.Label(p.Arch) != call {
				continue
			}
			found = true
			if err := writeExplanation(w, p, compartment, s, format); err != nil {
				return err
			}
		}
	}
	switch {
	case found:
		return nil
	case !known && !hasObject(doc, compartment):
		return fmt.Errorf("no compartment %s: there are %s", compartment, strings.Join(compartmentNames(doc), ", "))
	}
	if _, ok := syscalls.Number(syscalls.AMD64, call); !ok {
		if _, ok := syscalls.Number(syscalls.I386, call[strings.IndexByte(call, ':')+1:]); !ok {
			return fmt.Errorf("no system call is named %s", call)
		}
	}
	fmt.Fprintf(w, "%s does not make %s\n", compartment, call)
	return exitStatus(1)
}

func hasObject(doc *attribution.Document, name string) bool {
	for _, p := range doc.Programs {
		for _, o := range p.Objects {
			if o.Compartment == name {
				return true
			}
		}
	}
	return false
}

func compartmentNames(doc *attribution.Document) []string {
	var out []string
	for _, p := range doc.Programs {
		for _, c := range p.Compartments {
			out = append(out, c.Name)
		}
	}
	return out
}

func writeExplanation(w io.Writer, p *attribution.Program, compartment string, s *attribution.Syscall, format string) error {
	if format == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(s)
	}
	evidence := make([]string, len(s.Evidence))
	for i, e := range s.Evidence {
		evidence[i] = string(e)
	}
	_, err := fmt.Fprintf(w, "%s in %s: %s (%s, danger %d)\n", compartment, p.Path, s.Label(p.Arch), strings.Join(evidence, " and "), syscalls.Danger(s.Name))
	if s.Count > 0 {
		fmt.Fprintf(w, "  calls seen: %d\n", s.Count)
	}
	if len(s.Via) > 0 {
		fmt.Fprintf(w, "  via: %s\n", strings.Join(s.Via, ", "))
	}
	writeStack(w, s.Example)
	return err
}

// writeStack prints frames, outermost first, as the program gets to the call.
func writeStack(w io.Writer, stack []attribution.Frame) {
	for i := len(stack) - 1; i >= 0; i-- {
		f := stack[i]
		at := fmt.Sprintf("%s+%#x", f.Function, f.Offset)
		if f.Function == "" {
			at = fmt.Sprintf("%#x", f.Offset)
		}
		fmt.Fprintf(w, "  %3d  %-24s %s\n", len(stack)-i, f.Object, at)
	}
}
