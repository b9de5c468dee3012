// Package stats measures what attribution documents say about dividing a
// program: how many system calls each compartment makes, which of them others
// make too, and how much privilege one filter for each compartment takes away
// against one filter for the whole program.
//
// The metric of privilege is that of addrfilter (ANCHORS in docs/comparison.md): a system call weighs its danger
// class, 1 to 3 ([syscalls.Danger], after Bernaschi, Gabrielli and Mancini); the privilege of a set of calls is the sum
// of the weights of its distinct calls; the privilege of a divided program is that of its most privileged compartment;
// the reduction is 1 minus that by the privilege of the union of all compartments.
package stats
