package attribution

import "strings"

// ObjectName returns the name of the object at path: the file name without the
// folder. Bracketed names of memory without a file stay as they are, and an
// anonymous memory file ("/memfd:NAME (deleted)" in /proc/PID/maps) becomes
// [memfd:NAME].
func ObjectName(path string) string {
	if strings.HasPrefix(path, "[") {
		return path
	}
	if name, ok := strings.CutPrefix(path, "/memfd:"); ok {
		return "[memfd:" + strings.TrimSuffix(name, " (deleted)") + "]"
	}
	if i := strings.LastIndexByte(path, '/'); i >= 0 && i+1 < len(path) {
		return path[i+1:]
	}
	return path
}

// objectKey identifies an object in a program: a file that was replaced while
// the program ran is two objects, and so are two copies of one file.
type objectKey struct {
	path, buildID string
}

// name gives the object's name at a level of distinction: 0 the file name, 1
// with the start of the build id, 2 with everything that identifies it.
func (k objectKey) name(level int) string {
	base := ObjectName(k.path)
	switch {
	case level == 0:
		return base
	case k.buildID == "":
		return base + "@" + k.path
	case level == 1:
		return base + "@" + k.buildID[:min(8, len(k.buildID))]
	default:
		return base + "@" + k.buildID + "@" + k.path
	}
}

// uniqueNames names the objects. The result depends on the set of keys only,
// not on their order, so that merged documents do not depend on the order of
// merging: all holders of a name that is taken twice get the next level.
func uniqueNames(keys []objectKey) []string {
	names := make([]string, len(keys))
	levels := make([]int, len(keys))
	for {
		holders := make(map[string]int, len(keys))
		for i, k := range keys {
			names[i] = k.name(levels[i])
			holders[names[i]]++
		}
		raised := false
		for i := range keys {
			if holders[names[i]] > 1 && levels[i] < 2 {
				levels[i]++
				raised = true
			}
		}
		if !raised {
			return names
		}
	}
}
