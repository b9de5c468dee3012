package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"bulkhead/internal/analysis"
	"bulkhead/internal/attribution"
	"bulkhead/internal/report"
	"bulkhead/internal/syscalls"
)

func explainCommand() *cobra.Command {
	var flags analysisFlags
	output := outputFlags{stream: os.Stdout, formats: rowFormats}
	command := &cobra.Command{
		Use:   "explain [flags] DOC|PROGRAM COMPARTMENT SYSCALL",
		Short: "Show why a library can make a system call: the path in the code, the stack seen",
		Long: `Explain prints the shortest path from a compartment's code to the instruction that
makes the system call, function by function, or the stack seen where the call
was traced. The exit status is 1 if the compartment does not make the call.`,
		Example: "  bulkhead explain /usr/sbin/nginx libcrypto.so.3 openat\n  bulkhead explain redis.json redis-server execve",
		Args:    cobra.ExactArgs(3),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := output.check(); err != nil {
				return err
			}
			doc, err := flags.document(args[0])
			if err != nil {
				return err
			}
			found, err := explain(doc, args[1], args[2])
			if err != nil {
				return err
			}
			if err := output.writeResult(explanationResult(found)); err != nil {
				return err
			}
			if len(found) == 0 {
				note("%s does not make %s", args[1], args[2])
				return exitStatus(1)
			}
			return nil
		},
	}
	output.registerPlain(command)
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
	return analysis.Document(path, opts)
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

// explanation is why a compartment of a program makes a call.
type explanation struct {
	program     *attribution.Program
	compartment string
	call        *attribution.Syscall
}

// explain finds the entries of the document for a compartment and a call. That there is neither such a compartment nor
// such a call is an error.
func explain(doc *attribution.Document, compartment, call string) ([]explanation, error) {
	var found []explanation
	known := hasObject(doc, compartment)
	for i := range doc.Programs {
		p := &doc.Programs[i]
		c := p.Compartment(compartment)
		if c == nil {
			continue
		}
		known = true
		for j := range c.Syscalls {
			if s := &c.Syscalls[j]; s.Name == call || s.Label(p.Arch) == call {
				found = append(found, explanation{p, compartment, s})
			}
		}
	}
	switch {
	case !known:
		return nil, fmt.Errorf("no compartment %s: there are %s", compartment, strings.Join(compartmentNames(doc), ", "))
	case len(found) == 0 && !isSyscall(call):
		return nil, fmt.Errorf("no system call is named %s", call)
	}
	return found, nil
}

func isSyscall(call string) bool {
	_, ok := syscalls.Number(syscalls.AMD64, call)
	if !ok {
		_, ok = syscalls.Number(syscalls.I386, call[strings.IndexByte(call, ':')+1:])
	}
	return ok
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

func explanationResult(found []explanation) result {
	calls := make([]*attribution.Syscall, len(found))
	rows := []report.FrameRow{}
	for i, e := range found {
		calls[i] = e.call
		rows = append(rows, report.FrameRows(e.program, e.compartment, e.call)...)
	}
	return result{
		table: func(w io.Writer, _ report.Options) error {
			out := bufio.NewWriter(w)
			for _, e := range found {
				e.writeText(out)
			}
			return out.Flush()
		},
		json: calls,
		rows: rowsOf(rows),
	}
}

func (e explanation) writeText(w io.Writer) {
	s := e.call
	evidence := make([]string, len(s.Evidence))
	for i, kind := range s.Evidence {
		evidence[i] = string(kind)
	}
	fmt.Fprintf(w, "%s in %s: %s (%s, danger %d)\n", e.compartment, e.program.Path, s.Label(e.program.Arch),
		strings.Join(evidence, " and "), syscalls.Danger(s.Name))
	if s.Count > 0 {
		fmt.Fprintf(w, "  calls seen: %d\n", s.Count)
	}
	if len(s.Via) > 0 {
		fmt.Fprintf(w, "  via: %s\n", strings.Join(s.Via, ", "))
	}
	writeStack(w, s.Example)
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
