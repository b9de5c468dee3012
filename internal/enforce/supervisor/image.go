package supervisor

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/internal/dso"
	"bulkhead/internal/enforce/backend"
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

// govern finds the rules for the image at a path, whose file can be opened at another one: those of the policy, or by on-exec
// those of the image before.
func (s *supervisor) govern(path, file string, before *image) (*policy.Rules, bool) {
	if rules, listed := s.opts.Policy.Rules(path); listed && !s.changed(path, file) {
		return rules, true
	}
	if before != nil && s.opts.Policy.OnExec == policy.InheritExec {
		return before.rules, true
	}
	return nil, false
}

// listed are the files of the images that a policy lists.
func listed(p *policy.Policy) map[string]backend.Identity {
	files := map[string]backend.Identity{}
	for i := range p.Programs {
		var stat unix.Stat_t
		path := p.Programs[i].Path
		if unix.Stat(path, &stat) == nil {
			files[path] = backend.Identify(&stat, path)
		}
	}
	return files
}

// changed tells whether the file of a listed image is another one than when the policy came into force.
func (s *supervisor) changed(path, file string) bool {
	known, there := s.listed[path]
	var stat unix.Stat_t
	return there && unix.Stat(file, &stat) == nil && backend.Identify(&stat, path) != known
}

// Exec implements ptrace.Handler: the image that the kernel has opened is the one that counts.
func (s *supervisor) Exec(p *ptrace.Process) bool {
	before, _ := p.Data.(*image)
	path, err := backend.Executable(p.PID)
	if err != nil {
		s.opts.Log("process %d is killed: the image that it executes cannot be found out: %v", p.PID, err)
		return false
	}
	rules, ok := s.govern(path, fmt.Sprintf("/proc/%d/exe", p.PID), before)
	if !ok && s.opts.Audit && before != nil {
		rules, ok = before.rules, true
	}
	if !ok {
		s.refuse(p, path, s.unlisted(path))
		return false
	}
	if why := unsupported(p.PID); why != "" {
		s.refuse(p, path, why)
		return false
	}
	p.Data = s.imageOf(path, rules)
	return true
}

// unlisted says why an image that the policy has no rules for has none.
func (s *supervisor) unlisted(path string) string {
	if _, listed := s.listed[path]; listed {
		return "its file has changed since the policy came into force"
	}
	return "the policy lists no [[program]] with its path"
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
