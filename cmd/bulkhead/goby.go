package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"bulkhead/internal/region"
)

// goByFlag is --go-by.
type goByFlag struct{ region.GoBy }

func (f *goByFlag) register(command *cobra.Command) {
	f.GoBy = region.GoByModule
	command.Flags().Var(f, "go-by", "divide Go programs by `WHAT`: module or package")
}

// String, Set and Type implement pflag.Value.
func (f *goByFlag) String() string { return string(f.GoBy) }

func (f *goByFlag) Set(s string) error {
	switch by := region.GoBy(s); by {
	case region.GoByModule, region.GoByPackage:
		f.GoBy = by
		return nil
	}
	return fmt.Errorf("%q is neither module nor package", s)
}

func (f *goByFlag) Type() string { return "WHAT" }
