// Package perf reads the kernel's records of executable mappings, forks, execs and exits, system-wide, from the ring
// buffers of perf_event_open(2). They tell which file is where in a process even after the process has ended.
package perf
