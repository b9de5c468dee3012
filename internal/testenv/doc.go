// Package testenv is what tests need around them: virtual machines that boot
// other kernels with a RAM disk of the test's files (cpio's "newc" format), and
// static builds of this module's programs and tests to run there.
package testenv
