package syscalls

import (
	_ "embed"
	"fmt"
	"strings"
)

//go:embed groups.txt
var groupsText string

//go:embed danger.txt
var dangerText string

// A section of a data file: a heading at the left margin, indented words below.
type section struct {
	key, rest string // the heading's first word, and the others
	words     []string
}

// parseSections reads a data file. The word "new:" only tells the reader that
// the rest of its line is younger than the file's source.
func parseSections(text string) (sections []section, err error) {
	for n, line := range strings.Split(text, "\n") {
		switch {
		case strings.TrimSpace(line) == "" || line[0] == '#':
		case line[0] != '\t':
			key, rest, _ := strings.Cut(line, " ")
			sections = append(sections, section{key: key, rest: rest})
		case len(sections) == 0:
			return nil, fmt.Errorf("line %d: members before the first heading", n+1)
		default:
			s := &sections[len(sections)-1]
			for _, word := range strings.Fields(line) {
				if word != "new:" {
					s.words = append(s.words, word)
				}
			}
		}
	}
	return sections, nil
}

// mustParse is for the embedded files, which the tests parse first.
func mustParse(name, text string) []section {
	sections, err := parseSections(text)
	if err != nil {
		panic(fmt.Sprintf("embedded %s: %v", name, err))
	}
	return sections
}
