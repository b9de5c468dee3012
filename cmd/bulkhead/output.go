package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"bulkhead/internal/attribution"
	"bulkhead/internal/filecache"
	"bulkhead/internal/report"
)

// outputFlags say where a verb's document goes and in which format.
type outputFlags struct {
	format string
	out    string
	wide   bool
	// stream gets the document where there is no --out. nil is standard error,
	// for the verbs whose standard output belongs to the command they run.
	stream *os.File
}

func (f *outputFlags) register(command *cobra.Command) {
	command.Flags().StringVarP(&f.format, "output", "o", "", "output `FORMAT`: table, json or csv (default: by the ending of --out, else table)")
	command.Flags().StringVar(&f.out, "out", "", "write the result to `FILE`")
	command.Flags().BoolVar(&f.wide, "wide", false, "table: one line for each system call")
}

// check finds a wrong format, and a file that cannot be written, before the work is done.
func (f *outputFlags) check() error {
	if _, err := f.chosen(); err != nil || f.out == "" {
		return err
	}
	path := f.out
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
		return &fs.PathError{Op: "write", Path: f.out, Err: err}
	}
	return nil
}

// open returns where lines go as they come.
func (f *outputFlags) open() (io.Writer, error) {
	switch {
	case f.out != "":
		return os.Create(f.out)
	case f.stream != nil:
		return f.stream, nil
	}
	return os.Stderr, nil
}

func (f *outputFlags) chosen() (report.Format, error) {
	if f.format != "" {
		return report.ParseFormat(f.format)
	}
	if format, err := report.ParseFormat(strings.TrimPrefix(filepath.Ext(f.out), ".")); err == nil {
		return format, nil
	}
	return report.Table, nil
}

// write writes the document: to the file in one step, or to the stream.
func (f *outputFlags) write(d *attribution.Document) error {
	format, err := f.chosen()
	if err != nil {
		return err
	}
	options := report.Options{Wide: f.wide}
	if f.out != "" {
		return filecache.Replace(f.out, func(w io.Writer) error { return report.Write(w, d, format, options) })
	}
	stream := f.stream
	if stream == nil {
		stream = os.Stderr
	}
	if width, _, err := term.GetSize(int(stream.Fd())); err == nil {
		options.Width = width
		options.Colour = colours(stream)
	}
	if err := report.Write(stream, d, format, options); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}
