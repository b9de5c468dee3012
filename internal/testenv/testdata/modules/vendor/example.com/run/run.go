// Package run runs programs.
package run

import "os/exec"

// Program runs a program to its end.
func Program(path string) error { return exec.Command(path).Run() }
