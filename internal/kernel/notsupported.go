package kernel

import (
	"errors"
	"strings"
)

// NotSupported says that this kernel, or this process on it, lacks a feature.
// errors.Is(err, errors.ErrUnsupported) holds for it.
type NotSupported struct {
	Feature    Feature
	MinVersion Version // the first kernel that has the feature; zero if the version is not what matters
	Remedy     string  // what to do about it; empty if nothing is known to help
	Err        error   // what was seen
}

// Error is one line: the feature, what was seen, the first kernel that has the
// feature, and the remedy.
func (e *NotSupported) Error() string {
	var text strings.Builder
	text.WriteString(string(e.Feature) + " is not supported")
	if e.MinVersion != (Version{}) {
		text.WriteString(" (in Linux since " + e.MinVersion.String() + ")")
	}
	if e.Err != nil {
		text.WriteString(": " + e.Err.Error())
	}
	if e.Remedy != "" {
		text.WriteString("; remedy: " + e.Remedy)
	}
	return text.String()
}

func (e *NotSupported) Unwrap() error { return e.Err }

func (e *NotSupported) Is(target error) bool { return target == errors.ErrUnsupported }

// remedied is a failure for which the probe knows a better remedy than a newer kernel.
type remedied struct {
	error
	remedy string
}

func (r *remedied) Unwrap() error { return r.error }

// remedy attaches what to do to a failed probe's error.
func remedy(err error, text string) error { return &remedied{err, text} }

// unknown is a failure to find out, as opposed to a feature that is missing.
type unknown struct{ error }

func (u *unknown) Unwrap() error { return u.error }
