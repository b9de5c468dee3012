package analysis

import "slices"

// callbackRegisters are functions of C libraries that call a function that they
// are given before they return, and do not keep it: by register of the argument.
// It is their caller who decides what is called, so that it is charged there and
// to no other caller.
var callbackRegisters = map[string][]uint8{
	"qsort": {argRCX}, "qsort_r": {argRCX}, "bsearch": {argR8}, "lfind": {argR8}, "lsearch": {argR8},
	"tsearch": {argRDX}, "tfind": {argRDX}, "tdelete": {argRDX},
	"twalk": {argRSI}, "twalk_r": {argRSI}, "tdestroy": {argRSI},
	"scandir": {argRDX, argRCX}, "scandir64": {argRDX, argRCX},
	"scandirat": {argRCX, argR8}, "scandirat64": {argRCX, argR8},
	"pthread_once": {argRSI}, "call_once": {argRSI}, "dl_iterate_phdr": {argRDI},
	"__libc_allocate_once_slow": {argRSI, argRDX},
	"_dl_catch_exception":       {argRSI}, "_dl_catch_error": {argRCX}, "__tunable_get_val": {argRDX},
}

// cleanups call what was pushed by the function that calls them
// (nptl/cleanup_compat.c, cleanup_defer_compat.c): within libc one of its own handlers, which that
// function names.
var cleanups = []string{"_pthread_cleanup_pop", "_pthread_cleanup_pop_restore"}

// arity has the number of parameters of functions that everybody calls: what
// other argument registers hold is left over from before.
var arity = map[string]int{
	"malloc": 1, "calloc": 2, "realloc": 2, "free": 1, "reallocarray": 3, "memalign": 2, "aligned_alloc": 2, "posix_memalign": 3,
	"cfree": 1, "strdup": 1, "strndup": 2, "getenv": 1, "secure_getenv": 1,
	"abort": 0, "exit": 1, "_exit": 1, "__stack_chk_fail": 0, "__chk_fail": 0, "__libc_fatal": 1, "__fortify_fail": 1, "__assert_fail": 4,
	"open": 6, "close": 1, "read": 3, "write": 3, "lseek": 3, "mmap": 6, "munmap": 2, "mprotect": 3, "getpid": 0,
	"fopen": 2, "fdopen": 2, "fclose": 1, "fflush": 1, "fputs": 2, "fputc": 2, "puts": 1, "fwrite": 4, "fread": 4, "fileno": 1,
	"pthread_mutex_lock": 1, "pthread_mutex_unlock": 1, "pthread_mutex_init": 2, "pthread_mutex_destroy": 1,
	"pthread_rwlock_rdlock": 1, "pthread_rwlock_wrlock": 1, "pthread_rwlock_unlock": 1, "pthread_setspecific": 2,
	"pthread_cond_wait": 2, "pthread_cond_signal": 1, "pthread_cond_broadcast": 1, "pthread_kill": 2, "raise": 1,
	"getrandom": 3, "clock_gettime": 2, "gettimeofday": 2, "time": 1, "sched_yield": 0, "sysconf": 1, "get_nprocs": 0,
	"__lll_lock_wait_private": 1, "__lll_lock_wake_private": 1, "__resolv_context_get": 0, "__resolv_context_put": 1,
	"_dl_mcount_wrapper_check": 1, "__tls_get_addr": 1, "__errno_location": 0,
}

// argOrder are the registers of arguments, first to last.
var argOrder = [...]uint8{argRDI, argRSI, argRDX, argRCX, argR8, argR9}

// The registers of arguments, in the numbering of instructions.
const (
	argRCX = 1
	argRDX = 2
	argRSI = 6
	argRDI = 7
	argR8  = 8
	argR9  = 9
)

// findCallbacks notes the functions of an object that call what they are given,
// and those whose parameters are known.
func (r *reach) findCallbacks(l *linked) {
	for i := range l.Exports {
		e := &l.Exports[i]
		if e.Kind != ExportFunc {
			continue
		}
		if l.conduit && slices.Contains(cleanups, e.Name) {
			r.cleanups[l.first+e.Func] = true
		}
		if n, ok := arity[e.Name]; ok {
			r.limit(l.first+e.Func, n)
		}
		for _, reg := range callbackRegisters[e.Name] {
			if !l.conduit {
				break
			}
			r.callbacks[l.first+e.Func] |= 1 << reg
		}
	}
}

// passOn finds the functions of glibc that hand a parameter to functions which
// call it and do nothing else with it: they are such functions themselves.
func (r *reach) passOn() {
	for changed := true; changed; {
		changed = false
		for _, l := range r.objects {
			if !r.isGlibc(l) {
				continue
			}
			for i := range uint32(len(l.Funcs)) {
				passed, kept := r.passes(l, i)
				f := l.first + i
				if more := passed &^ kept &^ l.Funcs[i].Escapes; r.callbacks[f]|more != r.callbacks[f] {
					r.callbacks[f] |= more
					changed = true
				}
			}
		}
	}
}

// passes returns the parameters of function i that it hands over to be called, and
// those that it uses otherwise.
func (r *reach) passes(l *linked, i uint32) (passed, kept uint32) {
	first := l.firstCall(i)
	for j := range l.calls(i) {
		c := first + uint32(j)
		to, known := r.target(l, &l.Calls[c])
		for _, e := range l.members(l.Calls[c].Target) {
			if l.Calls[c].Kind == CallIndirect && e.Op == OpParam {
				kept |= 1 << e.I
			}
		}
		for _, a := range l.args(c) {
			for _, e := range l.members(a.Expr) {
				if e.Op != OpParam {
					continue
				}
				params, limited := r.params[to]
				switch {
				case !known:
					kept |= 1 << e.I
				case r.callbacks[to]>>a.Reg&1 != 0:
					passed |= 1 << e.I
				case limited && params>>a.Reg&1 == 0:
				case (r.funcOf(to).Uses|r.funcOf(to).Escapes)>>a.Reg&1 != 0:
					kept |= 1 << e.I
				}
			}
		}
	}
	return passed, kept
}

// target returns the function that a call enters, where it is one alone.
func (r *reach) target(l *linked, c *Call) (fid, bool) {
	imported := func(i uint32) (fid, bool) {
		b := r.resolve(l, i)
		if b.object == nil || b.export.Kind != ExportFunc {
			return 0, false
		}
		return b.object.first + b.export.Func, true
	}
	switch c.Kind {
	case CallFunc:
		return l.first + c.Target, true
	case CallImport:
		return imported(c.Target)
	}
	if e := l.Exprs[c.Target]; e.Op == OpImportSlot {
		if o, s, ok := r.importSlot(l, e.I, e.N); ok && o.Slots[s].Fixed && o.Slots[s].Kind == SlotFunc && o.Slots[s].Target != none {
			return o.first + o.Slots[s].Target, true
		}
	}
	return 0, false
}

// limit notes that a function has n parameters. Of two names for one the longer
// list counts.
func (r *reach) limit(f fid, n int) {
	for _, reg := range argOrder[:n] {
		r.params[f] |= 1 << reg
	}
	r.params[f] |= 1 << regStack
}

// callback follows what call c of f hands over to be called.
func (r *reach) callback(l *linked, f fid, c uint32, e Expr) {
	switch e.Op {
	case OpConst: // none
	case OpFunc:
		r.callsBack(f, c, l.first+e.I)
	case OpParam:
		r.use(nodeKey{f, uint8(e.I)}, use{kind: useCallback, call: c, fn: f})
	case OpImport:
		b := r.resolve(l, e.I)
		if b.object == nil {
			return
		}
		switch b.export.Kind {
		case ExportFunc:
			r.callsBack(f, c, b.object.first+b.export.Func)
		case ExportResolver:
			for _, t := range r.returned(b.object, b.export.Func) {
				r.callsBack(f, c, t)
			}
		default:
			r.open[f] = true
		}
	default:
		r.open[f] = true
	}
}

// callsBack adds an edge from call c of f, which hands to over, to to.
func (r *reach) callsBack(f fid, c uint32, to fid) {
	l := r.owner[f]
	off := l.Calls[c].Off
	for _, e := range r.edges[f] {
		if e.to == to && e.off == off {
			return
		}
	}
	if !l.conduit {
		r.outside[to] = true
	}
	r.edges[f] = append(r.edges[f], edge{to: to, off: off})
	r.reach(to, why{f, off, byCall})
	for uses, reg := r.funcOf(to).Uses|r.funcOf(to).Tests, uint8(0); uses != 0; uses, reg = uses>>1, reg+1 {
		if uses&1 != 0 {
			r.addUnknown(nodeKey{to, reg})
		}
	}
}

// callOnlyArguments finds the functions whose calls through pointers go to what
// their callers hand over, which is charged there, or to cleanup handlers that they
// name themselves: those of callbackRegisters, as long as their address is not
// known elsewhere, and the private functions that are called by these alone.
func (r *reach) callOnlyArguments() []bool {
	only := make([]bool, len(r.owner))
	for f := range r.callbacks {
		only[f] = r.reached[f] && !r.escaped[f]
	}
	for f := range r.cleanups {
		only[f] = r.reached[f] && !r.escaped[f]
	}
	exported := map[fid]bool{}
	for _, l := range r.objects {
		if l.conduit {
			for i := range l.Exports {
				if l.Exports[i].Kind != ExportData {
					exported[l.first+l.Exports[i].Func] = true
				}
			}
		}
	}
	callers := map[fid][]fid{}
	for f := range r.edges {
		for _, e := range r.edges[f] {
			if to := e.to; r.owner[to].conduit && !r.escaped[to] && !exported[to] {
				callers[to] = append(callers[to], fid(f))
			}
		}
	}
	for changed := true; changed; {
		changed = false
		for f, from := range callers {
			if only[f] {
				continue
			}
			all := true
			for _, g := range from {
				all = all && (only[g] || g == f)
			}
			if all {
				only[f], changed = true, true
			}
		}
	}
	return only
}
