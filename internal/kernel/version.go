package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Version is a Linux release number.
type Version struct{ Major, Minor int }

func (v Version) String() string {
	if v == (Version{}) {
		return ""
	}
	return fmt.Sprintf("%d.%d", v.Major, v.Minor)
}

// Before tells whether v is older than w.
func (v Version) Before(w Version) bool {
	return v.Major < w.Major || v.Major == w.Major && v.Minor < w.Minor
}

// MinTrace is the first kernel with all that tracing needs (bpf_loop and bpf_find_vma).
var MinTrace = Version{5, 17}

// parseVersion reads the start of a release such as "6.1.0-56-cloud-amd64".
func parseVersion(release string) (Version, error) {
	var v Version
	if _, err := fmt.Sscanf(release, "%d.%d", &v.Major, &v.Minor); err != nil {
		return Version{}, fmt.Errorf("read kernel release %q: %w", release, err)
	}
	return v, nil
}

// uname returns the running kernel's release and the machine's name for its architecture.
func uname() (release, machine string, err error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(name.Release[:]), unix.ByteSliceToString(name.Machine[:]), nil
}
