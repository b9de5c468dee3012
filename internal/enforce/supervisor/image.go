package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"bulkhead/internal/dso"
	"bulkhead/internal/objfile"
	"bulkhead/internal/policy"
	"bulkhead/internal/ptrace"
)

// image is a program image with the rules that govern it.
type image struct {
	path    string
	buildID string
	rules   *policy.Rules
	objects *objects
	codes   map[*object]*code
}

// newImage is the image that a process runs, under rules.
func (s *supervisor) newImage(path string, rules *policy.Rules) *image {
	i := &image{path: path, rules: rules, objects: s.objects, codes: map[*object]*code{}}
	if elf, err := objfile.Open(path); err == nil {
		i.buildID = elf.BuildID
		elf.Close()
	}
	return i
}

// executable returns the path of what a process executes, as the kernel tells.
func executable(pid int) (string, error) {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return strings.TrimSuffix(path, " (deleted)"), err
}

// govern finds the rules for the image at a path: those of the policy, or by on-exec those of the image before.
func (s *supervisor) govern(path string, before *image) (*policy.Rules, bool) {
	if rules, listed := s.opts.Policy.Rules(path); listed {
		return rules, true
	}
	if before != nil && s.opts.Policy.OnExec == policy.InheritExec {
		return before.rules, true
	}
	return nil, false
}

// Exec implements ptrace.Handler: the image that the kernel has opened is the one that counts.
func (s *supervisor) Exec(p *ptrace.Process) bool {
	before, _ := p.Data.(*image)
	path, err := executable(p.PID)
	if err != nil {
		s.opts.Log("process %d is killed: the image that it executes cannot be found out: %v", p.PID, err)
		return false
	}
	rules, ok := s.govern(path, before)
	if !ok && s.opts.Audit && before != nil {
		rules, ok = before.rules, true
	}
	if !ok {
		s.refuse(p, path, "the policy lists no [[program]] with its path")
		return false
	}
	if why := unsupported(p.PID); why != "" {
		s.refuse(p, path, why)
		return false
	}
	p.Data = s.imageOf(path, rules)
	return true
}

func (s *supervisor) refuse(p *ptrace.Process, path, why string) {
	if p.Data == nil {
		s.refused = fmt.Errorf("%s may not run: %s", path, why)
		return
	}
	s.opts.Log("process %d is killed before the first instruction of %s: %s", p.PID, path, why)
}

// imageOf keeps one image for each path and rules.
func (s *supervisor) imageOf(path string, rules *policy.Rules) *image {
	key := imageKey{path, rules.Program}
	if known := s.images[key]; known != nil {
		return known
	}
	i := s.newImage(path, rules)
	s.images[key] = i
	return i
}

type imageKey struct {
	path    string
	program *policy.Program
}

// unsupported says what keeps a process from being supervised, if anything.
func unsupported(pid int) string {
	maps, err := dso.Mappings(pid)
	if err != nil || len(maps) == 0 {
		return "it may be executed but not read, so that its stack cannot be looked at: run bulkhead as root, or allow reading the file"
	}
	if elf, err := objfile.Open(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
		defer elf.Close()
		if elf.Class != 64 {
			return "32-bit programs cannot be supervised"
		}
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/personality", pid))
	if err == nil {
		if bits, err := strconv.ParseUint(strings.TrimSpace(string(text)), 16, 32); err == nil && bits&readImpliesExec != 0 {
			return "it asks for READ_IMPLIES_EXEC, under which executable memory would come about unseen"
		}
	}
	return ""
}

// Fork implements ptrace.Handler.
func (s *supervisor) Fork(parent, child *ptrace.Process) { child.Data = parent.Data }

// named returns the path of the file that an execve or execveat names, for an answer in good time: symbolic links and
// interpreters of scripts are followed. It returns false where it cannot tell; then Exec decides.
func named(t *ptrace.Thread) (string, bool) {
	c := &t.Call
	pointer, folder := c.Args[0], fmt.Sprintf("/proc/%d/cwd", t.TID)
	if c.NR == execveatNumber(c.ABI) {
		pointer = c.Args[1]
		if fd := int32(c.Args[0]); fd >= 0 {
			folder = fmt.Sprintf("/proc/%d/fd/%d", t.TID, fd)
		}
	}
	path, whole, err := t.Memory.ReadString(pointer, 4096)
	if err != nil || !whole {
		return "", false
	}
	const interpreters = 5 // as many as the kernel follows
	for range interpreters {
		path, err = resolve(path, folder)
		if err != nil {
			return "", false
		}
		next, script := interpreter(path)
		if !script {
			return path, true
		}
		path = next
	}
	return "", false
}

// resolve returns the absolute path without symbolic links.
func resolve(path, folder string) (string, error) {
	if !filepath.IsAbs(path) {
		base, err := os.Readlink(folder)
		if err != nil {
			return "", err
		}
		path = filepath.Join(base, path)
	}
	return filepath.EvalSymlinks(path)
}

// interpreter returns the program that a script names in its first line.
func interpreter(path string) (string, bool) {
	file, err := os.Open(path)
	if err != nil {
		return "", false
	}
	defer file.Close()
	start := make([]byte, 256) // all that the kernel reads of a script
	n, _ := file.Read(start)
	line, isScript := strings.CutPrefix(string(start[:n]), "#!")
	if !isScript {
		return "", false
	}
	line, _, _ = strings.Cut(line, "\n")
	words := strings.Fields(line)
	if len(words) == 0 {
		return "", false
	}
	return words[0], true
}
