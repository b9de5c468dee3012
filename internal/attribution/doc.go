// Package attribution holds the attribution document: which compartment of
// which program makes which system call, why we say so, and what was lost on
// the way. Static analysis, tracing and imports of other tools' logs all
// produce it through a [Builder]; policies, reports and comparisons read it.
//
// The format is bulkhead.attribution/v1, JSON, described by
// docs/attribution.schema.json (generated from the types here) and explained
// in docs/document.md. A document is deterministic: sorted, without time
// stamps, every field present.
package attribution
