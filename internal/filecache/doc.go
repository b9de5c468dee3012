// Package filecache keeps derived data in a folder between runs, for any number
// of processes at once, and replaces files in one step: a reader sees the old
// content or the whole new one (rename(2)).
package filecache
