// Package report turns attribution documents into what people and other tools
// read: a table for the terminal, JSON, which is the document itself, rows as
// CSV (RFC 4180) or Apache Parquet, and an HTML page that loads nothing. All come from one model of a program, so
// that every report can be made again from a recording. What other packages
// find about documents is written as rows by [WriteRows].
package report
