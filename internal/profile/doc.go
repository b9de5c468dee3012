// Package profile turns policies into what other tools enforce, and their filters into policies.
//
// One filter for a process allows the union of what a policy's programs and compartments may do: [Of] makes that set.
// [Formats] writes it as an OCI runtime-spec seccomp profile, a SeccompProfile of the Security Profiles Operator, a
// systemd.exec(5) drop-in or a classic BPF program. Two formats keep compartments apart: bit tables for C, for the shim of
// a library operating system, and the properties of a CycloneDX 1.6 bill of materials.
//
// Calls that came with Linux 4.11 or later, and numbers that no table knows, fail with ENOSYS where they are not allowed,
// so that callers take the way that they have for kernels without them ([policy.Rules.Errno]); older ones fail with EPERM.
package profile
