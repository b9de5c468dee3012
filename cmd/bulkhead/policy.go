package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"bulkhead/internal/attribution"
	"bulkhead/internal/filecache"
	"bulkhead/internal/policy"
	"bulkhead/internal/report"
)

type policyFlags struct {
	evidence   string
	baseline   string
	check      string
	groups     []string
	incomplete bool
	out        string
}

// policyCommand returns the verb that derives policies, with those that work on them below it.
func policyCommand() *cobra.Command {
	var flags policyFlags
	command := &cobra.Command{
		Use:   "policy [flags] DOC...",
		Short: "Derive a policy from documents; check, compare and format policies",
		Long: `Policy writes what each library of the documents' programs may do, and nothing
else: a file for people to read and change, and for bulkhead run to enforce.
Standard error tells what was gained over one filter for the whole process.`,
		Example: `  bulkhead policy trace.json analysis.json --out nginx.policy
  bulkhead policy --group 'tls=libssl.so.*' --group 'tls=libcrypto.so.*' trace.json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, paths []string) error {
			options, err := flags.options()
			if err != nil {
				return err
			}
			return derivePolicy(paths, options, flags.out)
		},
	}
	f := command.Flags()
	f.StringVar(&flags.evidence, "evidence", "both", "what counts: `KIND` is traced, static or both")
	f.StringArrayVar(&flags.groups, "group", nil, "one compartment `NAME=PATTERN` for all libraries that match (repeatable)")
	f.StringVar(&flags.baseline, "baseline", "default", "harmless, frequent calls allowed to all compartments: `SET` is default or none")
	f.StringVar(&flags.check, "check", "origin", "`WHO` must allow a call: origin, or chain for all compartments on the stack")
	f.BoolVar(&flags.incomplete, "allow-incomplete", false, "derive although evidence was lost")
	f.StringVar(&flags.out, "out", "", "write the policy to `FILE`")
	command.AddCommand(policyApplyCommand(), policyCheckCommand(), policyAddCommand(), policyDiffCommand(), policyFormatCommand())
	return command
}

func (f *policyFlags) options() (policy.Options, error) {
	o := policy.Options{Incomplete: f.incomplete}
	var err error
	if o.Evidence, err = choose("evidence", f.evidence, map[string][]attribution.Evidence{
		"both": nil, "traced": {attribution.Traced}, "static": {attribution.Static},
	}); err != nil {
		return o, err
	}
	if o.Baseline, err = choose("baseline", f.baseline, map[string]bool{"default": true, "none": false}); err != nil {
		return o, err
	}
	if o.Check, err = choose("check", f.check, map[string]policy.Check{"origin": policy.Origin, "chain": policy.Chain}); err != nil {
		return o, err
	}
	for _, g := range f.groups {
		if o.Groups, err = policy.AddGroup(o.Groups, g); err != nil {
			return o, err
		}
	}
	return o, nil
}

// choose returns what a word on the command line stands for.
func choose[T any](flag, word string, of map[string]T) (T, error) {
	v, ok := of[word]
	if !ok {
		return v, fmt.Errorf("--%s %s: want %s", flag, word, alternatives(of))
	}
	return v, nil
}

func alternatives[T any](of map[string]T) string {
	return strings.Join(slices.Sorted(maps.Keys(of)), ", ")
}

func derivePolicy(paths []string, options policy.Options, out string) error {
	if out != "" {
		if err := writable(out); err != nil {
			return err
		}
	}
	doc, err := readDocuments(paths)
	if err != nil {
		return err
	}
	p, err := policy.Derive(doc, options)
	if err != nil {
		return err
	}
	text, err := p.Text()
	if err != nil {
		return err
	}
	if out == "" {
		_, err = os.Stdout.Write(text)
	} else {
		err = writeFile(out, text)
	}
	if err != nil {
		return err
	}
	writeGains(os.Stderr, p)
	return nil
}

func writeFile(path string, data []byte) error {
	return filecache.Replace(path, func(w io.Writer) error { _, err := w.Write(data); return err })
}

// writeGains tells what a policy gained, program by program.
func writeGains(w io.Writer, p *policy.Policy) {
	alone := p.Gains(false)
	for i, g := range p.Gains(true) {
		fmt.Fprintf(w, "%s\n  %-32s %5s %9s\n", g.Program, "compartment", "calls", "privilege")
		for _, c := range g.Compartments {
			fmt.Fprintf(w, "  %-32s %5d %9d\n", c.Name, c.Calls, c.Sum)
		}
		fmt.Fprintf(w, "  %-32s %5d %9d\n", "one filter for all", g.Union.Calls, g.Union.Sum)
		fmt.Fprintf(w, "  privilege reduction %.1f %%", 100*g.Reduction())
		if len(p.Baseline.Calls) > 0 {
			fmt.Fprintf(w, " (%.1f %% without the baseline)", 100*alone[i].Reduction())
		}
		fmt.Fprintf(w, ": 1 - the greatest privilege / that of one filter\n")
	}
}

func policyCheckCommand() *cobra.Command {
	output := outputFlags{stream: os.Stdout, formats: rowFormats}
	command := &cobra.Command{
		Use:   "check [flags] POLICY DOC...",
		Short: "Show what of the documents a policy would deny",
		Long: `Check prints each system call in the documents that the policy would deny, who
makes it, the line of the policy that decides and the one that would allow it.
The exit status is 1 if there is one.`,
		Example: "  bulkhead policy check nginx.policy new-trace.json",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := output.check(); err != nil {
				return err
			}
			p, err := policy.Load(args[0])
			if err != nil {
				return err
			}
			doc, err := readDocuments(args[1:])
			if err != nil {
				return err
			}
			violations := p.Violations(doc)
			if err := output.writeResult(violationsResult(violations)); err != nil {
				return err
			}
			return differs(len(violations) > 0)
		},
	}
	output.registerPlain(command)
	return command
}

// differs makes the exit status of the verbs that compare.
func differs(yes bool) error {
	if yes {
		return exitStatus(1)
	}
	return nil
}

func violationsResult(violations []policy.Violation) result {
	return result{
		table: func(w io.Writer, _ report.Options) error {
			return writeByDanger(w, violations, func(v policy.Violation) int { return v.Danger }, writeViolation)
		},
		json: violations,
		rows: rowsOf(policy.ViolationRows(violations)),
	}
}

// writeByDanger writes items, which are sorted by danger class, below the names of the classes.
func writeByDanger[T any](w io.Writer, items []T, danger func(T) int, write func(io.Writer, T)) error {
	out := bufio.NewWriter(w)
	class := -1
	for _, item := range items {
		if d := danger(item); d != class {
			class = d
			fmt.Fprintln(out, dangerNames[class])
		}
		write(out, item)
	}
	return out.Flush()
}

func writeViolation(w io.Writer, v policy.Violation) {
	if v.Syscall == "" {
		fmt.Fprintf(w, "  %s may not run\n", v.Program)
	} else {
		fmt.Fprintf(w, "  %s: %s may not %s (%s)\n", v.Program, v.Compartment, v.Syscall, expected(v))
	}
	writeStack(w, v.Example)
	fmt.Fprintf(w, "    decided by %s\n    to allow:  %s\n", v.Decided, v.Remedy)
}

// expected tells in words why a call is expected.
func expected(v policy.Violation) string {
	kinds := make([]string, len(v.Evidence))
	for i, e := range v.Evidence {
		kinds[i] = string(e)
	}
	text := strings.Join(kinds, " and ")
	if v.Count > 0 {
		text += fmt.Sprintf(", calls seen: %d", v.Count)
	}
	if v.Object != v.Compartment {
		text += ", by " + v.Object
	}
	return text
}

func policyAddCommand() *cobra.Command {
	var options policy.Options
	var out string
	command := &cobra.Command{
		Use:   "add [flags] POLICY DOC...",
		Short: "Add to a policy what it denies of documents",
		Long: `Add changes a policy file in place so that it allows what the documents have
evidence of, those of denied calls that run writes among them, and prints what
it added. The rest of the file and its comments stay.`,
		Example: "  bulkhead run --audit --policy app.policy --out denied.json -- app\n  bulkhead policy add app.policy denied.json",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if out == "" {
				out = args[0]
			}
			if err := writable(out); err != nil {
				return err
			}
			doc, err := readDocuments(args[1:])
			if err != nil {
				return err
			}
			data, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			text, added, err := policy.Extend(args[0], data, doc, options)
			if err != nil {
				return err
			}
			if len(added) > 0 || out != args[0] {
				if err := writeFile(out, text); err != nil {
					return err
				}
			}
			return writeByDanger(os.Stdout, added, func(v policy.Violation) int { return v.Danger }, writeAdded)
		},
	}
	command.Flags().StringVar(&out, "out", "", "write the policy to `FILE`, not in place")
	command.Flags().BoolVar(&options.Incomplete, "allow-incomplete", false, "add although evidence was lost")
	return command
}

func writeAdded(w io.Writer, v policy.Violation) {
	if v.Syscall == "" {
		fmt.Fprintf(w, "  + %s\n", v.Program)
		return
	}
	fmt.Fprintf(w, "  + %s %s: %s\n", v.Program, v.Object, v.Syscall)
}

func policyDiffCommand() *cobra.Command {
	output := outputFlags{stream: os.Stdout, formats: rowFormats}
	command := &cobra.Command{
		Use:   "diff [flags] A B",
		Short: "Show which system calls policy B allows and policy A does not, and the reverse",
		Long: `Diff compares what two policies allow, compartment by compartment, the most
dangerous system calls first. The exit status is 1 if there is a difference.`,
		Example: "  bulkhead policy diff old.policy new.policy",
		Args:    cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := output.check(); err != nil {
				return err
			}
			a, err := policy.Load(args[0])
			if err != nil {
				return err
			}
			b, err := policy.Load(args[1])
			if err != nil {
				return err
			}
			changes := policy.Diff(a, b)
			if err := output.writeResult(policyChangesResult(changes)); err != nil {
				return err
			}
			return differs(len(changes) > 0)
		},
	}
	output.registerPlain(command)
	return command
}

func policyChangesResult(changes []policy.Change) result {
	return result{
		table: func(w io.Writer, _ report.Options) error {
			return writeByDanger(w, changes, func(c policy.Change) int { return c.Danger },
				func(w io.Writer, c policy.Change) { fmt.Fprintf(w, "  %s\n", c) })
		},
		json: changes,
		rows: rowsOf(policy.ChangeRows(changes)),
	}
}

func policyFormatCommand() *cobra.Command {
	var list bool
	command := &cobra.Command{
		Use:   "fmt [flags] FILE...",
		Short: "Lay out policy files",
		Long: `Fmt lays out policy files in place and names those that it changed. FILE may be
- for standard input, which is laid out to standard output.`,
		Example: "  bulkhead policy fmt nginx.policy",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, paths []string) error {
			changed := false
			for _, path := range paths {
				c, err := formatPolicy(path, list)
				if err != nil {
					return err
				}
				changed = changed || c
			}
			return differs(list && changed)
		},
	}
	command.Flags().BoolVarP(&list, "list", "l", false, "only name the files that differ, with exit status 1 if there is one")
	return command
}

func formatPolicy(path string, list bool) (changed bool, err error) {
	if path == "-" {
		data, err := io.ReadAll(os.Stdin)
		if err != nil {
			return false, err
		}
		text, err := policy.Format("standard input", data)
		if err != nil || list {
			return !bytes.Equal(text, data), err
		}
		_, err = os.Stdout.Write(text)
		return false, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	text, err := policy.Format(path, data)
	if err != nil || bytes.Equal(text, data) {
		return false, err
	}
	fmt.Println(path)
	if list {
		return true, nil
	}
	return true, writeFile(path, text)
}
