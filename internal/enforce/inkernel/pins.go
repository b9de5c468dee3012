package inkernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/internal/bpf"
)

// The BPF file system, and the folder in it with one folder for each session: the programs pinned there stay attached when
// the session's process dies.
const (
	bpfFS   = "/sys/fs/bpf"
	pinRoot = bpfFS + "/bulkhead"
)

// pin keeps the programs in force whatever becomes of this process, and returns the folder.
func pin(enforcer *bpf.Enforcer) (dir string, err error) {
	if err := mountBPF(); err != nil {
		return "", err
	}
	started, err := startTime(os.Getpid())
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(pinRoot, 0o700); err != nil {
		return "", err
	}
	for n := 0; ; n++ { // one process may have several sessions
		dir = filepath.Join(pinRoot, fmt.Sprintf("%d-%s-%d", os.Getpid(), started, n))
		err := os.Mkdir(dir, 0o700)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	if err := enforcer.Pin(dir); err != nil {
		return "", errors.Join(err, unpin(dir))
	}
	return dir, nil
}

// mountBPF makes sure that there is a BPF file system.
func mountBPF() error {
	var stat unix.Statfs_t
	if err := unix.Statfs(bpfFS, &stat); err != nil {
		return &fs.PathError{Op: "statfs", Path: bpfFS, Err: err}
	}
	if stat.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", bpfFS, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount the BPF file system, in which programs outlive their owner: mount -t bpf bpf %s: %w", bpfFS, err)
	}
	return nil
}

// startTime tells processes with the same number apart: field 22 of proc_pid_stat(5).
func startTime(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	name := strings.LastIndex(string(stat), ")") // which may have blanks and parentheses of its own
	fields := strings.Fields(string(stat[name+1:]))
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	return fields[19], nil
}

func unpin(dir string) error { return os.RemoveAll(dir) }

// Leftover is what a session whose process has died has left: programs in force.
type Leftover struct {
	Dir     string // in the BPF file system
	Threads uint64 // that are still under its policy
}

// Leftovers lists them.
func Leftovers() ([]Leftover, error) {
	dirs, err := os.ReadDir(pinRoot)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var left []Leftover
	for _, dir := range dirs {
		pid, started, _ := strings.Cut(dir.Name(), "-")
		started, _, _ = strings.Cut(started, "-")
		number, err := strconv.Atoi(pid)
		if err != nil {
			continue
		}
		if now, err := startTime(number); err == nil && now == started {
			continue // its owner lives
		}
		path := filepath.Join(pinRoot, dir.Name())
		threads, err := bpf.PinnedLive(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		left = append(left, Leftover{path, threads})
	}
	return left, nil
}

// Remove ends the enforcement of a session that has died. Tasks that are still under its policy run on without one.
func (l *Leftover) Remove() error { return unpin(l.Dir) }

// sweep removes what guards nobody any more.
func sweep() {
	left, _ := Leftovers()
	for _, l := range left {
		if l.Threads == 0 {
			_ = l.Remove()
		}
	}
}
