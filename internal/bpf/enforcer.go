package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/ringbuf"

	"bulkhead/internal/filecache"
)

// The types that enforcement shares with its kernel part, under their Go names.
type (
	Filter        = enforceFilter
	Answer        = enforceAnswer
	ViolationKind = enforceViolationKind
	BindingFlags  = enforceBindingFlags
)

const (
	AnswerAudit = enforceAnswerANSWER_AUDIT
	AnswerKill  = enforceAnswerANSWER_KILL
	AnswerDeny  = enforceAnswerANSWER_DENY

	ExecDeny    = enforceExecAnswerEXEC_DENY
	ExecInherit = enforceExecAnswerEXEC_INHERIT

	ViolationCall = enforceViolationKindVIOLATION_CALL
	ViolationExec = enforceViolationKindVIOLATION_EXEC

	BindConduit = enforceBindingFlagsBINDING_CONDUIT
	BindCalls   = enforceBindingFlagsBINDING_CALLS

	// Rows of an image in a policy: see filter_row in enforce.bpf.c.
	RowAll     = uint32(enforceFilterRowROW_ALL)
	RowCovered = uint32(enforceFilterRowROW_COVERED)
	RowUnknown = uint32(enforceFilterRowROW_UNKNOWN)
	Rows       = uint32(enforceFilterRowROWS)
)

// hookPrefix begins the names of the programs for LSM hooks.
const hookPrefix = "deny_"

// Hooks returns the LSM hooks that an Enforcer can use, sorted.
func Hooks() ([]string, error) {
	spec, err := loadEnforce()
	if err != nil {
		return nil, fmt.Errorf("read the built-in BPF object: %w", err)
	}
	var hooks []string
	for name := range spec.Programs {
		if hook, ok := strings.CutPrefix(name, hookPrefix); ok {
			hooks = append(hooks, hook)
		}
	}
	slices.Sort(hooks)
	return hooks, nil
}

// Enforcer is the loaded and attached enforcement program. It stops nothing before Mark.
type Enforcer struct {
	programs
	filters    *ebpf.MapSpec // of one policy
	violations *ringbuf.Reader

	mu         sync.Mutex // one swap at a time
	generation uint32
	current    *Policy
	retired    *Policy
}

// NewEnforcer loads the enforcement programs and attaches them, with those for the LSM hooks named, which the kernel
// must have. No task is governed until Mark, and no policy is in force until the first is. cache keeps what loading computes
// between runs; it may be nil.
func NewEnforcer(hooks []string, cache *filecache.Cache) (*Enforcer, error) {
	spec, err := loadEnforce()
	if err != nil {
		return nil, fmt.Errorf("read the built-in BPF object: %w", err)
	}
	maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool {
		hook, isHook := strings.CutPrefix(name, hookPrefix)
		return isHook && !slices.Contains(hooks, hook)
	})
	e := &Enforcer{filters: spec.Maps["policies"].InnerMap}
	if err := e.load(spec, _EnforceBytes, cache); err != nil {
		return nil, errors.Join(fmt.Errorf("load BPF programs: %w", err), e.Close())
	}
	if err := e.attach(hooks); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (e *Enforcer) attach(hooks []string) error {
	var names []string
	for _, hook := range hooks {
		names = append(names, hookPrefix+hook)
	}
	// Children and execs are followed before any call is judged.
	names = append(names, "enforce_fork", "enforce_exec", "enforce_exit", "enforce_call")
	if err := e.programs.attach("guard", names...); err != nil {
		return err
	}
	var err error
	if e.violations, err = ringbuf.NewReader(e.shared["violations"]); err != nil {
		return fmt.Errorf("open the ring buffer: %w", err)
	}
	return nil
}

// Close detaches the programs that are not pinned and frees what they hold.
func (e *Enforcer) Close() error {
	var errs []error
	if e.violations != nil {
		errs = append(errs, e.violations.Close())
	}
	for _, p := range []*Policy{e.current, e.retired} {
		if p != nil {
			errs = append(errs, p.filters.Close())
		}
	}
	return errors.Join(append(errs, e.programs.close())...)
}

// Policy is a set of filters in the kernel, with the images that they are for.
type Policy struct {
	e          *Enforcer
	generation uint32
	filters    *ebpf.Map

	mu    sync.Mutex
	bound []enforceBindingKey
	named []enforceImageKey
}

// NewPolicy puts filters into the kernel. They are in force after Enforce.
func (e *Enforcer) NewPolicy(rows []Filter) (*Policy, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	spec := e.filters.Copy()
	spec.MaxEntries = uint32(len(rows))
	filters, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("make a map of %d filters: %w", len(rows), err)
	}
	keys := make([]uint32, len(rows))
	for i := range keys {
		keys[i] = uint32(i)
	}
	if _, err := filters.BatchUpdate(keys, rows, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("store filters: %w", err), filters.Close())
	}
	e.generation++
	p := &Policy{e: e, generation: e.generation, filters: filters}
	// Putting a map into a map waits for all running programs.
	if err := e.shared["policies"].Put(p.slot(), filters); err != nil {
		return nil, errors.Join(fmt.Errorf("add a policy: %w", err), filters.Close())
	}
	return p, nil
}

func (p *Policy) slot() uint32 { return p.generation % p.e.shared["policies"].MaxEntries() }

// Generation numbers the policies of an Enforcer from 1.
func (p *Policy) Generation() uint32 { return p.generation }

// Name says that the program with this main executable is governed by the image whose filters begin at row.
func (p *Policy) Name(program ObjectID, row uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := enforceImageKey{Generation: p.generation, Object: uint32(program)}
	p.named = append(p.named, key)
	if err := p.e.shared["images"].Put(key, row); err != nil {
		return fmt.Errorf("name a program image: %w", err)
	}
	return nil
}

// Bind says which compartment, by its filter's row, a region of a loaded object belongs to under an image, and whether it
// is a conduit, and whether its frames have to return to where a call was made. Code that is not bound belongs to the
// image's RowUnknown.
func (p *Policy) Bind(image uint32, object ObjectID, region uint16, compartment uint32, flags BindingFlags) error {
	var loaded traceObject
	if err := p.e.shared["objects"].Lookup(uint32(object), &loaded); err != nil {
		return fmt.Errorf("bind code of object %d: %w", object, err)
	}
	key := enforceBindingKey{Generation: p.generation, Image: image, Region: loaded.FirstRegion + uint32(region)}
	binding := enforceBinding{Compartment: compartment, Flags: uint32(flags)}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bound = append(p.bound, key)
	if err := p.e.shared["bindings"].Put(key, binding); err != nil {
		return fmt.Errorf("bind code to its compartment: %w", err)
	}
	return nil
}

// Enforce puts the policy into force for all tasks at once: a call that has begun is judged by the one before.
func (p *Policy) Enforce() error {
	e := p.e
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.loaded.Variables["generation"].Set(p.generation); err != nil {
		return fmt.Errorf("put a policy into force: %w", err)
	}
	last := e.retired
	e.retired, e.current = e.current, p
	// Since the policy before the last was in force, adding this one has waited for all programs.
	if last != nil {
		return last.remove()
	}
	return nil
}

// remove frees a policy that is no longer in force, or never was.
func (p *Policy) remove() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	errs := []error{p.e.shared["policies"].Delete(p.slot()), p.filters.Close()}
	for _, key := range p.bound {
		errs = append(errs, ignoreMissing(p.e.shared["bindings"].Delete(key)))
	}
	for _, key := range p.named {
		errs = append(errs, ignoreMissing(p.e.shared["images"].Delete(key)))
	}
	p.bound, p.named = nil, nil
	return errors.Join(errs...)
}

func ignoreMissing(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

// pinnedState is the name of the pinned variables.
const pinnedState = "state"

// Pin keeps the programs attached after this process has ended, under names in an empty folder of a BPF file system.
func (e *Enforcer) Pin(dir string) error {
	for _, l := range e.links {
		if err := l.Pin(filepath.Join(dir, l.name)); err != nil {
			return fmt.Errorf("pin %s: %w", l.name, err)
		}
	}
	if err := e.loaded.Maps[".bss"].Pin(filepath.Join(dir, pinnedState)); err != nil {
		return fmt.Errorf("pin the variables: %w", err)
	}
	return nil
}

// PinnedLive returns the number of marked threads that have not ended, of an Enforcer that was pinned in a folder.
func PinnedLive(dir string) (uint64, error) {
	spec, err := loadEnforce()
	if err != nil {
		return 0, fmt.Errorf("read the built-in BPF object: %w", err)
	}
	state, err := ebpf.LoadPinnedMap(filepath.Join(dir, pinnedState), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return 0, err
	}
	defer state.Close()
	variables, err := state.LookupBytes(uint32(0))
	if err != nil {
		return 0, fmt.Errorf("read the pinned variables: %w", err)
	}
	at := spec.Variables["live"].Offset
	if int(at)+8 > len(variables) {
		return 0, errors.New("the pinned variables are those of another version")
	}
	return binary.NativeEndian.Uint64(variables[at:]), nil
}

// KernelHooks returns a function that tells whether the running kernel has an LSM hook.
func KernelHooks() (has func(hook string) bool, err error) {
	types, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("read the kernel's types: %w", err)
	}
	return func(hook string) bool {
		var f *btf.Func
		return types.TypeByName("bpf_lsm_"+hook, &f) == nil
	}, nil
}

// Losses returns how many violations found no room in the ring buffer, and how many tasks could not be stopped.
func (e *Enforcer) Losses() (violations, unstopped uint64) {
	var tallies [enforceTallyTALLIES]uint64
	if e.loaded.Variables["tallies"].Get(&tallies) != nil {
		return 0, 0
	}
	missed := uint64(0)
	if stats, err := e.loaded.Programs["enforce_call"].Stats(); err == nil {
		missed = stats.RecursionMisses
	}
	return tallies[enforceTallyTALLY_LOST], tallies[enforceTallyTALLY_UNKILLED] + tallies[enforceTallyTALLY_UNTRACKED] + missed
}
