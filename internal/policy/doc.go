// Package policy holds what each compartment of a program may do: the policy
// file (bulkhead.policy/v1), derived from attribution documents, written by
// people, merged, compared, and compiled for enforcement.
//
// The file is TOML 1.0 in the form that docs/policy.md describes: strict, so
// that a key or a system call that is not known is an error with its line.
// [Parse] reads it, [Format] lays it out, [Policy.Rules] compiles the part that
// governs one program image into [Rules], which is all that the backends of
// enforcement see.
package policy
