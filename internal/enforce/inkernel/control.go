package inkernel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"bulkhead/internal/bpf"
	"bulkhead/internal/policy"
	"bulkhead/internal/syscalls"
)

// controlDir has a socket for each session, named after the process that was put under the policy first. Only root can get
// there.
const controlDir = "/run/bulkhead"

// control takes new policies for a session.
type control struct{ listener net.Listener }

// order is what [Apply] sends: a policy and the name of its file.
type order struct {
	File   string `json:"file"`
	Policy []byte `json:"policy"`
}

// answer is what it gets.
type answer struct {
	Error string `json:"error"`
}

// serve lets others swap the policy. Without it the session works all the same.
func (s *session) serve(pid int) {
	err := os.MkdirAll(controlDir, 0o700)
	if err == nil {
		path := controlPath(pid)
		_ = os.Remove(path) // of one that has died
		var listener net.Listener
		if listener, err = net.Listen("unix", path); err == nil {
			s.control = &control{listener}
			go s.serveAll(listener)
			return
		}
	}
	s.opts.Log("the policy of process %d cannot be changed while it runs: %v", pid, err)
}

func controlPath(pid int) string { return filepath.Join(controlDir, strconv.Itoa(pid)) }

func (c *control) close() error {
	if c == nil {
		return nil
	}
	return c.listener.Close()
}

func (s *session) serveAll(listener net.Listener) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		var o order
		var a answer
		err = json.NewDecoder(connection).Decode(&o)
		if err == nil {
			err = s.apply(&o)
		}
		if err != nil {
			a.Error = err.Error()
		}
		_ = json.NewEncoder(connection).Encode(a) // whoever asked may have gone
		connection.Close()
	}
}

// apply puts another policy into force, for all tasks at once.
func (s *session) apply(o *order) error {
	p, err := policy.Parse(o.File, o.Policy)
	if err != nil {
		return err
	}
	opts := s.opts
	opts.Policy = p
	answer := opts.OnViolation()
	if _, err := Promises(answer, s.opts.Start); err != nil {
		return err
	}
	_, covered := need(func(hook string) bool { return slices.Contains(s.hooks, hook) }, func(syscalls.ABI, int) bool { return true })
	rules := newRuleset(p, answer, covered)
	if err := rules.load(s.enforcer); err != nil {
		return err
	}
	if err := s.transfer(rules); err != nil {
		return err
	}
	if err := rules.kernel.Enforce(); err != nil {
		return err
	}
	s.use(rules)
	for _, obj := range s.objects.all() { // what has come in between
		err = errors.Join(err, rules.bind(obj))
	}
	s.opts.Log("the policy is now %s", o.File)
	return err
}

// transfer binds all code that is known to its compartments under other rules. Files that have changed since they were
// first used are read again: whoever applies a policy takes them as they are.
func (s *session) transfer(rules *ruleset) error {
	s.mu.Lock()
	paths := s.paths
	s.paths = map[string]bpf.ObjectID{}
	s.mu.Unlock()
	var errs []error
	for path := range paths {
		if file, err := os.Open(path); err == nil {
			_, err := s.open(file, path)
			errs = append(errs, err)
		}
	}
	for _, obj := range s.objects.all() {
		errs = append(errs, rules.bind(obj))
		if _, listed := rules.imageOf(obj.Path); listed {
			_, err := rules.name(obj)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Apply swaps the policy of a running process that is governed by this backend, or of the one that it descends from. The
// swap is atomic: every call is judged by one of the two policies.
func Apply(pid int, p *policy.Policy, text []byte) error {
	connection, err := dialSession(pid)
	if err != nil {
		return err
	}
	defer connection.Close()
	if err := json.NewEncoder(connection).Encode(order{p.File, text}); err != nil {
		return fmt.Errorf("send the policy: %w", err)
	}
	var a answer
	switch err := json.NewDecoder(connection).Decode(&a); {
	case errors.Is(err, io.EOF):
		return errors.New("bulkhead, which governs the process, has ended: the policy stays as it was")
	case err != nil:
		return fmt.Errorf("wait for the swap: %w", err)
	case a.Error != "":
		return errors.New(a.Error)
	}
	return nil
}

// dialSession finds the session that governs a process: its own, or that of the process it descends from.
func dialSession(pid int) (net.Conn, error) {
	for p := pid; p > 1; {
		connection, err := net.Dial("unix", controlPath(p))
		if err == nil {
			return connection, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("bulkhead, which governed process %d, has ended or is not yours: the policy stays as it was: %w", p, err)
		}
		if p, err = parent(p); err != nil {
			return nil, fmt.Errorf("process %d does not exist", pid)
		}
	}
	return nil, fmt.Errorf("process %d is not under a policy of the kernel backend", pid)
}

// parent returns the parent of a process: field 4 of proc_pid_stat(5).
func parent(pid int) (int, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:]))
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/stat is cut off", pid)
	}
	return strconv.Atoi(fields[1])
}
