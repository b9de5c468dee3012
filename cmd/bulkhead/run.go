package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"bulkhead/internal/cfi"
	"bulkhead/internal/enforce"
	"bulkhead/internal/enforce/backend"
	"bulkhead/internal/enforce/denial"
	"bulkhead/internal/filecache"
	"bulkhead/internal/policy"
	"bulkhead/internal/trace"
)

type runFlags struct {
	output  outputFlags
	policy  string
	pid     int
	audit   bool
	backend string
	denials string
}

func runCommand() *cobra.Command {
	var flags runFlags
	command := &cobra.Command{
		Use:   "run --policy FILE [flags] -- COMMAND [ARG...]",
		Short: "Run a command under a policy: each library may make its own system calls only",
		Long: `Run starts a command, or joins a running process, under a policy. A system call
that the policy does not allow to the library that makes it fails before it has
any effect, or as the policy says. Each denial is told on standard error, with
the line of the policy that decided and the one that would allow the call.
The command's standard files, exit status and signals pass through.
The first interrupt is for the command, the second one kills it.`,
		Example: "  bulkhead run --policy redis.policy -- redis-server --port 6390\n" +
			"  bulkhead run --policy redis.policy --audit --out denied.json -- redis-server",
		RunE: func(command *cobra.Command, args []string) error {
			switch {
			case flags.policy == "":
				return errors.New("give the policy with --policy FILE: see bulkhead run --help")
			case command.Flags().Changed("pid") == (len(args) != 0):
				return errors.New("give either a command or --pid PID: see bulkhead run --help")
			case len(args) == 0 && flags.pid <= 0:
				return fmt.Errorf("%d is not the number of a process", flags.pid)
			}
			return runEnforced(&flags, args)
		},
	}
	command.Flags().SetInterspersed(false) // what follows the command is its own
	flags.output.register(command)
	command.Flags().StringVar(&flags.policy, "policy", "", "the policy `FILE`")
	command.Flags().IntVarP(&flags.pid, "pid", "p", 0, "join the running process `PID` with all its threads")
	command.Flags().BoolVar(&flags.audit, "audit", false, "report what would be denied and let it happen")
	command.Flags().StringVar(&flags.backend, "backend", string(enforce.Auto), "auto, kernel or supervisor")
	command.Flags().StringVar(&flags.denials, "denials", "", "write each denial as a line of JSON to `FILE`")
	return command
}

func runEnforced(flags *runFlags, args []string) error {
	if err := flags.output.check(); err != nil {
		return err
	}
	chosen, err := enforce.ParseBackend(flags.backend)
	if err != nil {
		return err
	}
	rules, err := policy.Load(flags.policy)
	if err != nil {
		return err
	}
	denials, finish, err := flags.log()
	if err != nil {
		return err
	}
	tuneRuntime()
	cache, cacheErr := cfi.OpenCache("")
	start, _ := filecache.Open("", "start") // where the other cannot be opened, this one cannot either
	opts := enforce.Options{
		Options: backend.Options{Policy: rules, Audit: flags.audit, Denied: denials.Add, Cache: cache, Start: start, Log: note},
		Backend: chosen,
	}
	var status *syscall.WaitStatus
	var stopped error
	if len(args) == 0 {
		ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer cancel()
		err = enforce.Process(ctx, flags.pid, opts)
	} else {
		status, stopped, err = enforceChild(args, opts)
	}
	if err != nil {
		return commandFailure(err)
	}
	if cacheErr != nil {
		note("without a cache of unwind rows every start is slow: %v", cacheErr)
	}
	if err := finish(); err != nil {
		return &failure{exitOwnFailure, err}
	}
	return passOn(status, stopped)
}

// log returns where denials go, and what writes the result.
func (f *runFlags) log() (log *denial.Log, finish func() error, err error) {
	var lines io.Writer
	if f.denials != "" {
		if lines, err = os.Create(f.denials); err != nil {
			return nil, nil, err
		}
	}
	log = denial.NewLog(noteLines, lines)
	return log, func() error {
		if _, err := log.Close(); err != nil {
			return err
		}
		if f.output.out == "" {
			return nil
		}
		return f.output.write(log.Document())
	}, nil
}

// noteLines says something to the user in lines of which the first tells who speaks.
func noteLines(text string) { fmt.Fprintf(os.Stderr, "bulkhead: %s\n", strings.TrimSuffix(text, "\n")) }

// enforceChild runs the command. The first interrupt or termination is passed on to it; the second kills it.
func enforceChild(args []string, opts enforce.Options) (status *syscall.WaitStatus, stopped error, err error) {
	path, err := trace.FindCommand(args[0])
	if err != nil {
		return nil, nil, err
	}
	ctx, signals, release := commandSignals()
	defer release()
	opts.Signals = signals
	status, err = enforce.Command(ctx, path, args, opts)
	return status, context.Cause(ctx), err
}
