package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"bulkhead/internal/enforce/inkernel"
	"bulkhead/internal/policy"
)

// policyApplyCommand returns the verb that swaps the policy of a running process.
func policyApplyCommand() *cobra.Command {
	var pid int
	command := &cobra.Command{
		Use:   "apply --pid PID FILE",
		Short: "Put another policy into force for a running process",
		Long: `Apply swaps the policy of a process, and of all that it has started, which
bulkhead run governs with the kernel backend. The swap is atomic: every call is
judged by one of the two policies. Files that have changed since they were first
used are taken as they are now.`,
		Example: "  bulkhead policy apply --pid 4711 nginx.policy",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if pid <= 0 {
				return fmt.Errorf("give the process with --pid PID: see bulkhead policy apply --help")
			}
			text, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read policy: %w", err)
			}
			p, err := policy.Parse(args[0], text)
			if err != nil {
				return err
			}
			if err := inkernel.Apply(pid, p, text); err != nil {
				return &failure{exitOwnFailure, err}
			}
			return nil
		},
	}
	command.Flags().IntVarP(&pid, "pid", "p", 0, "the process `PID`, or one that it has started")
	return command
}
