package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"bulkhead/internal/attribution"
	"bulkhead/internal/filecache"
	"bulkhead/internal/report"
)

// outputFlags say where a verb's result goes and in which format.
type outputFlags struct {
	format string
	out    string
	wide   bool
	// stream gets the result where there is no --out. nil is standard error,
	// for the verbs whose standard output belongs to the command they run.
	stream io.Writer
	// formats are those that the verb has; nil is all.
	formats []report.Format
}

// rowFormats are those of the verbs whose result is not a document.
var rowFormats = []report.Format{report.Table, report.JSON, report.CSV, report.Parquet}

func (f *outputFlags) register(command *cobra.Command) {
	f.registerPlain(command)
	command.Flags().BoolVar(&f.wide, "wide", false, "table: one line for each system call")
}

// registerPlain leaves out what only documents have.
func (f *outputFlags) registerPlain(command *cobra.Command) {
	usage := fmt.Sprintf("output `FORMAT`: %s (default: by the ending of --out, else table), or the file, for --out",
		report.Enumerate(f.known()))
	command.Flags().StringVarP(&f.format, "output", "o", "", usage)
	command.Flags().StringVar(&f.out, "out", "", "write the result to `FILE`")
}

func (f *outputFlags) known() []report.Format {
	if f.formats != nil {
		return f.formats
	}
	return report.Formats
}

// check finds a wrong format, and a file that cannot be written, before the work is done.
func (f *outputFlags) check() error {
	format, err := f.chosen()
	switch {
	case err != nil:
		return err
	case f.out != "":
		return writable(f.out)
	case format == report.Parquet:
		if _, shown := terminal(f.destination()); shown {
			return errors.New("parquet is not for a terminal: give --out FILE")
		}
	}
	return nil
}

func writable(path string) error {
	name := path
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		err = unix.EISDIR
	case err == nil && !info.Mode().IsRegular():
		return nil
	default:
		err = unix.Access(filepath.Dir(path), unix.W_OK|unix.X_OK)
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	return nil
}

// open returns where lines go as they come.
func (f *outputFlags) open() (io.Writer, error) {
	if f.out != "" {
		return os.Create(f.out)
	}
	return f.destination(), nil
}

func (f *outputFlags) destination() io.Writer {
	if f.stream != nil {
		return f.stream
	}
	return os.Stderr
}

// chosen returns the format, and takes a file's name with a format's ending in -o for --out.
func (f *outputFlags) chosen() (report.Format, error) {
	if format := byEnding(f.format); format != "" && f.out == "" {
		f.format, f.out = "", f.format
	}
	format := report.Format(f.format)
	if format == "" {
		format = byEnding(f.out)
	}
	if format == "" {
		format = report.Table
	}
	if !slices.Contains(f.known(), format) {
		return "", fmt.Errorf("unknown output format %q: want %s", format, report.Enumerate(f.known()))
	}
	return format, nil
}

// byEnding finds a format by the ending of a file's name, if that is one.
func byEnding(path string) report.Format {
	if f := report.Format(strings.TrimPrefix(filepath.Ext(path), ".")); slices.Contains(report.Formats, f) {
		return f
	}
	return ""
}

// result is what a verb found, in the forms that it can be shown in.
type result struct {
	table func(io.Writer, report.Options) error
	json  any
	rows  func(io.Writer, report.Format) error
}

// rowsOf is the rows of a result.
func rowsOf[T any](rows []T) func(io.Writer, report.Format) error {
	return func(w io.Writer, f report.Format) error { return report.WriteRows(w, rows, f) }
}

func (r result) write(w io.Writer, f report.Format, o report.Options) error {
	switch f {
	case report.JSON:
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r.json)
	case report.CSV, report.Parquet:
		return r.rows(w, f)
	}
	return r.table(w, o)
}

// write writes the document: to the file in one step, or to the stream.
func (f *outputFlags) write(d *attribution.Document) error {
	return f.deliver(func(w io.Writer, format report.Format, o report.Options) error {
		return report.Write(w, d, format, o)
	})
}

// writeResult is write for what is not a document.
func (f *outputFlags) writeResult(r result) error { return f.deliver(r.write) }

func (f *outputFlags) deliver(write func(io.Writer, report.Format, report.Options) error) error {
	format, err := f.chosen()
	if err != nil {
		return err
	}
	options := report.Options{Wide: f.wide}
	if f.out != "" {
		return filecache.Replace(f.out, func(w io.Writer) error { return write(w, format, options) })
	}
	stream := f.destination()
	if file, ok := terminal(stream); ok {
		options.Width, _, _ = term.GetSize(int(file.Fd())) // 0 is no limit
		options.Colour = colours()
	}
	if err := write(stream, format, options); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}
