// Package report turns attribution documents into what people and other tools
// read: a table for the terminal, CSV (RFC 4180) and JSON, which is the
// document itself. All come from one list of rows, so that every report can be
// made again from a recording.
package report
