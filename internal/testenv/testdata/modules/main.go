// App uses three modules: one reads files, one talks over a network, one runs programs.
package main

import (
	"fmt"
	"os"

	"example.com/dial"
	"example.com/files"
	"example.com/run"
)

var steps = map[string]func() error{
	"files": func() error { return files.Copy(files.Path(os.Args[0])) },
	"dial":  dial.Echo,
	"run":   func() error { return run.Program("/bin/true") },
}

func main() {
	names := os.Args[1:]
	if len(names) == 0 {
		names = []string{"files", "dial", "run"}
	}
	failed := false
	for _, name := range names {
		if err := steps[name](); err != nil {
			fmt.Println(name, "failed:", err)
			failed = true
		} else {
			fmt.Println(name, "done")
		}
	}
	if failed {
		os.Exit(1)
	}
}
