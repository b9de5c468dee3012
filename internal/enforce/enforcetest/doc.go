// Package enforcetest holds what every backend of enforcement must do, as tests that the backends run on themselves: calls
// that are allowed, denied, audited and killed, by origin and by chain; effects that must not happen; ways around.
package enforcetest
