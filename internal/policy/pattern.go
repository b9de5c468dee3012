package policy

import (
	"fmt"
	"path"
	"strings"

	"bulkhead/internal/attribution"
)

// checkPattern tells what is wrong with a pattern of objects, symbols or
// modules.
func checkPattern(pattern string) error {
	if pattern == "" {
		return fmt.Errorf("pattern %q: is empty", pattern)
	}
	if pattern[0] == '[' && !strings.HasSuffix(pattern, "]") {
		return fmt.Errorf("pattern %q: one that starts with [ names memory without a file, such as [memfd:*], and ends with ]",
			pattern)
	}
	if _, err := path.Match(pattern[1:], ""); pattern[0] == '[' && err != nil {
		return fmt.Errorf("pattern %q: %w", pattern, err)
	}
	if _, err := path.Match(pattern, ""); pattern[0] != '[' && err != nil {
		return fmt.Errorf("pattern %q: %w", pattern, err)
	}
	return nil
}

// object is an object as patterns see it.
type object struct {
	path string // without " (deleted)"
	name string // the path's last element, or the bracketed name
	file bool   // false: memory without a file
}

func newObject(p string) object {
	memory := strings.HasPrefix(p, "[") || strings.HasPrefix(p, "/memfd:")
	if !memory {
		p = strings.TrimSuffix(p, " (deleted)") // replaced by an upgrade while it runs
	}
	return object{path: p, name: attribution.ObjectName(p), file: !memory}
}

// matches reports whether a pattern matches the object: its path if the pattern
// has a slash, else its name. Brackets match memory without a file only, and
// nothing else does, so that no file's name can claim it.
func (o object) matches(pattern string) bool {
	switch {
	case pattern[0] == '[':
		ok, _ := path.Match(pattern[1:], strings.TrimPrefix(o.name, "["))
		return !o.file && ok
	case !o.file:
		return false
	case strings.Contains(pattern, "/"):
		return matchOrEqual(pattern, o.path)
	default:
		return matchOrEqual(pattern, o.name)
	}
}

// matchOrEqual lets a pattern match itself: file names can have brackets.
func matchOrEqual(pattern, s string) bool {
	ok, _ := path.Match(pattern, s)
	return ok || pattern == s
}

// moduleMatches is for Go modules: x/y, x/* for one element, x/... for all
// below x, x itself among them.
func moduleMatches(pattern, module string) bool {
	if root, ok := strings.CutSuffix(pattern, "/..."); ok {
		return module == root || strings.HasPrefix(module, root+"/")
	}
	return matchOrEqual(pattern, module)
}
