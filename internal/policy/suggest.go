package policy

import (
	"fmt"
	"strings"
)

// suggestion returns ": did you mean "x"?" for the word most like the one
// given, or nothing if none is like it.
func suggestion(word string, words []string) string {
	best, nearest := "", max(1, len(word)/3)+1
	for _, w := range words {
		d := distance(word, w)
		if len(word) > 3 && (strings.HasPrefix(w, word) || strings.HasSuffix(w, word)) {
			d = 0 // pread for pread64, fstatat for newfstatat
		}
		if d < nearest {
			best, nearest = w, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(": did you mean %q?", best)
}

// distance is the number of letters to insert, delete, replace or swap with
// their neighbour (optimal string alignment).
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(row[j]+1, last[j+1]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
