// Package denial holds what is told about a system call that a policy does not allow: which library made it, with which
// arguments, on which stack, which line of the policy decided and which would allow it. [Log] takes the denials of both
// backends as they happen and writes them as text for people, as NDJSON, and as an attribution document that
// `bulkhead policy` can read back.
package denial
