// Package syscalls has the numbers and names of Linux's system calls for the
// four ABIs that an amd64 or arm64 machine can meet, the groups that system
// administrators speak of, and a danger class for each call.
//
// Numbers follow the kernel's arch/*/entry/syscalls/*.tbl and
// scripts/syscall.tbl, in the version [Kernel] names, by way of two packages
// made from them: golang.org/x/sys/unix (amd64, i386, arm64) and, for the
// numbers that only x32 has, Debian's linux-libc-dev. Numbers are stable:
// a newer kernel only adds to them.
//
// Groups follow the "System Call Filtering" section of systemd.exec(5) and
// have its names, "@file-system" for example. Calls that came after systemd
// 252 are put where their nearest relative is (groups.txt).
//
// Danger classes follow the threat levels of M. Bernaschi, E. Gabrielli and
// L. V. Mancini, "REMUS: a security-enhanced operating system", ACM TISSEC
// 5(1), 2002: their level 1 (full control of the system) is class 3 here,
// their levels 2 and 3 (denial of service, subversion of the invoking
// process) are class 2 and their level 4 (harmless) is class 1. The paper
// knows Linux 2.2; danger.txt applies its definitions to every call of today
// and gives the reason for each.
package syscalls

//go:generate go run ./gen
