//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Count every system call of the traced tasks by the code that caused it.
 *
 * A task is traced when it has storage in `tasks`: user space marks the first
 * ones through the iterator below, children inherit the mark before they run.
 * All other tasks pay two loads.
 *
 * A call is counted here, in the kernel, under (program, origin, via, system
 * call), so that no rate of calls loses any. Whole stacks are walked when such
 * a key is new and for a sample after that, and sent when they tell something
 * new. A stack that cannot be walked yet, because the rows of an object are
 * still being made, is captured and walked in user space.
 */
#include "tasks.h"
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define MAX_COUNTS 65536
#define MAX_CHAINS 16384
#define MAX_TALLIES 16384
#define RING_BYTES (16 << 20)
#define RING_FULL (RING_BYTES / 2)
#define HOLD_BACK_SPINS 50000
#define STACK_BYTES (256 << 10) /* captured for a chain */
#define TOP_BYTES (16 << 10)   /* captured for an origin */
#define FAR_BYTES (64 << 10)   /* captured of other stacks that the walk may go on with */
#define MAX_PIECES 3
#define MAX_LINKS 64           /* saved frame pointers that are followed from one to the next */
#define MAX_CAPTURED 8192
#define PAGE 4096

enum tally {
	TALLY_LOST,           /* calls counted nowhere: a map or the ring was full */
	TALLY_UNTRACKED,      /* children that could not be marked */
	TALLY_LOST_STACKS,    /* example stacks that found no room in the ring */
	TALLY_STREAM_LOST,    /* stream records that found no room in the ring */
	TALLY_BROKEN,         /* walks that ended before the outermost frame */
	TALLY_UNATTRIBUTED,   /* calls charged to OBJECT_UNKNOWN */
	TALLIES,
};

/* Settings: written before the programs are loaded. */
volatile const bool follow = true;      /* children of the first processes too */
volatile const bool every_chain = false; /* walk every stack to its end */
volatile const bool stream = false;     /* send every call */

/* The object of the main executable of the process to mark: its threads may be too busy with their mappings to look for it. */
u32 mark_program = 0;

struct task {
	struct view view;
	u32 program; /* the object of the main executable; 0: not known yet */
	u32 alive;   /* counted in live */
};

struct count_key {
	u32 program;
	u32 nr;
	u32 abi;
	u32 pad;
	struct frame origin;
	struct frame via;
};

struct count {
	u64 calls;
};

struct chain_key {
	u64 chain;
	u32 program;
	u32 nr;
	u32 abi;
	u32 pad;
};

enum event_kind {
	EVENT_PROGRAM, /* a program image made its first call */
	EVENT_STACK,   /* a whole stack, for a key or a chain that is new */
	EVENT_CAPTURE, /* registers and stack memory, to be walked in user space */
	EVENT_CALL,    /* --stream: one call */
};

enum capture_flags {
	CAPTURE_COUNT = 1, /* the call is not counted yet */
	CAPTURE_CHAIN = 2, /* its chain is wanted */
};

/* A call site before it is attributed: the instruction and the word on the stack, mostly a return address. */
struct capture_key {
	u64 ip;
	u64 word;
	u32 program;
	u32 nr;
};

struct tally_key {
	u32 program;
	u32 tally;
};

struct event {
	u32 kind;
	u32 pid; /* process, in the tracer's PID namespace */
	u32 tid;
	u32 flags; /* of a capture */
	u64 time; /* CLOCK_MONOTONIC, ns */
	struct count_key key;
};

/* Laid over a walk's frames and the room before them. */
struct stack_event {
	struct event event;
	u32 depth;
	u32 end; /* enum walk_end */
	struct frame frames[MAX_FRAMES];
};

_Static_assert(__builtin_offsetof(struct stack_event, frames) == sizeof(((struct walk *)0)->room),
	       "the header of a stack event fills the room in struct walk");

struct registers {
	u64 ax, dx, cx, bx, si, di, bp, sp; /* the order of DWARF's numbers */
	u64 r8, r9, r10, r11, r12, r13, r14, r15;
	u64 ip;
};

/* A copied piece of a stack. */
struct piece {
	u64 at;
	u32 bytes;
	u32 pad;
};

struct capture_event {
	struct event event;
	struct registers regs;
	u32 end; /* why the kernel's walk stopped */
	u32 object; /* WALK_NO_ROWS: whose rows were missed */
	struct piece pieces[MAX_PIECES]; /* first from the page of regs.sp upwards */
	u32 bytes; /* of all */
	u32 pad;
	u64 link, top; /* while pieces are made: the next saved frame pointer, the last one in the piece */
	u8 stack[STACK_BYTES + FAR_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task);
} tasks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_COUNTS);
	__type(key, struct count_key);
	__type(value, struct count);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_CHAINS);
	__type(key, struct chain_key);
	__type(value, struct count);
} chains SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct walk);
} walks SEC(".maps");

/* One per CPU, indexed by hand: too large for a per-CPU value. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct capture_event);
} captures SEC(".maps");

/* Call sites whose whole stack was captured. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_CAPTURED);
	__type(key, struct capture_key);
	__type(value, u32);
} captured SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_TALLIES);
	__type(key, struct tally_key);
	__type(value, u64);
} tallies SEC(".maps");

/* For bpf2go: types that only user space names. */
const struct registers *unused_registers __attribute__((unused));
const struct block *unused_block __attribute__((unused));
const struct stack_event *unused_stack_event __attribute__((unused));
const struct capture_event *unused_capture_event __attribute__((unused));
const enum object_id *unused_object_id __attribute__((unused));
const enum object_flags *unused_object_flags __attribute__((unused));
const enum region_flags *unused_region_flags __attribute__((unused));
const enum rule_kind *unused_rule_kind __attribute__((unused));
const enum rule_flags *unused_rule_flags __attribute__((unused));
const enum saved *unused_saved __attribute__((unused));
const enum walk_end *unused_walk_end __attribute__((unused));
const enum tally *unused_tally __attribute__((unused));
const enum event_kind *unused_event_kind __attribute__((unused));
const enum capture_flags *unused_capture_flags __attribute__((unused));
const enum abi *unused_abi __attribute__((unused));

static __always_inline int resolved(struct walk *w, struct code *code)
{
	code->flags |= CODE_RETURN;
	return WALK_GOING;
}

static __noinline int increment(u32 program, u32 tally)
{
	struct tally_key key = { .program = program, .tally = tally };
	u64 one = 1, *n = bpf_map_lookup_elem(&tallies, &key);

	if (!n && !bpf_map_update_elem(&tallies, &key, &one, BPF_NOEXIST))
		return 0;
	n = bpf_map_lookup_elem(&tallies, &key);
	if (n)
		__sync_fetch_and_add(n, 1);
	return 0;
}

static __always_inline void fill_event(struct event *e, u32 kind, struct task_struct *task,
				       struct count_key *key)
{
	e->kind = kind;
	e->pid = pid_in_namespace(BPF_CORE_READ(task, group_leader));
	e->tid = pid_in_namespace(task);
	e->flags = 0;
	e->time = bpf_ktime_get_ns();
	e->key = *key;
}

/* The object of the main executable, found at the first call after an exec. */
static __noinline u32 find_program(struct task_struct *task)
{
	struct count_key key = {};
	struct event *e;
	u32 id;

	if (!task)
		return OBJECT_UNKNOWN;
	id = main_object(task);
	if (id == OBJECT_UNKNOWN)
		return id;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (e) {
		key.program = id;
		fill_event(e, EVENT_PROGRAM, task, &key);
		bpf_ringbuf_submit(e, 0);
	} else {
		increment(id, TALLY_LOST_STACKS);
	}
	return id;
}

static __always_inline void read_registers(struct registers *to, struct pt_regs *regs)
{
	to->ax = regs->ax;
	to->dx = regs->dx;
	to->cx = regs->cx;
	to->bx = regs->bx;
	to->si = regs->si;
	to->di = regs->di;
	to->bp = regs->bp;
	to->sp = regs->sp;
	to->r8 = regs->r8;
	to->r9 = regs->r9;
	to->r10 = regs->r10;
	to->r11 = regs->r11;
	to->r12 = regs->r12;
	to->r13 = regs->r13;
	to->r14 = regs->r14;
	to->r15 = regs->r15;
	to->ip = regs->ip;
}

/*
 * Copy the pages of a stack that are below an end behind what was copied, and
 * return their length. A page that was never touched (large arrays leave such
 * holes in a stack) is read as zeros, unless the end of the mapping is not
 * known: then it ends the copy.
 */
__noinline u32 copy_pages(struct capture_event *e, u64 from, u64 end, u32 limit, bool holes)
{
	u32 bytes = 0, behind;

	if (!e)
		return 0;
	behind = e->bytes;
	for (u32 at = 0; at < STACK_BYTES; at += PAGE) {
		u64 to = behind + at;

		barrier_var(to); /* or the compiler takes the sum apart that it has checked */
		if (at >= limit || from + at >= end || to > STACK_BYTES + FAR_BYTES - PAGE)
			break;
		if (bpf_probe_read_user(e->stack + to, PAGE, (void *)(from + at)) && !holes)
			break;
		bytes = at + PAGE;
	}
	e->bytes = behind + bytes;
	return bytes;
}

/*
 * Follow saved frame pointers from e->link until they leave a piece of a stack,
 * and return whether that is for what looks like a frame elsewhere.
 */
__noinline int follow_links(struct capture_event *e, u64 start, u64 end)
{
	struct mapping m = {};
	u64 frame[2];
	long err;

	if (!e)
		return 0;
	for (int i = 0; i < MAX_LINKS; i++) {
		if (bpf_probe_read_user(frame, sizeof(frame), (void *)e->link))
			return 0;
		if (e->link < start || e->link >= end) {
			err = bpf_find_vma(bpf_get_current_task_btf(), frame[1], read_mapping, &m, 0);
			return m.executable || err == -EBUSY; /* another thread holds the lock: no reason to lose it */
		}
		e->top = e->link;
		e->link = frame[0];
	}
	return 0;
}

/* The stack of the goroutine that runs, if Go's register for that has one (runtime.g begins with the bounds). */
static __always_inline u64 end_of_go_stack(struct registers *regs)
{
	u64 bounds[2];

	if (bpf_probe_read_user(bounds, sizeof(bounds), (void *)regs->r14))
		return 0;
	return bounds[0] <= regs->sp && regs->sp < bounds[1] ? bounds[1] : 0;
}

#define NR_RT_SIGRETURN 15
/* Offsets in the kernel's rt_sigframe behind the return address (struct ucontext). */
#define UCONTEXT_BP 120
#define UCONTEXT_SP 160

/*
 * Copy the stack, and the stacks that a walk goes on with where the code has
 * switched: a signal handler's, Go's for the runtime. Saved frame pointers lead
 * there, even where the code in between does without.
 */
static __noinline int copy_stacks(struct capture_event *e, u64 end, u32 limit)
{
	u64 start, top;
	bool on;

	if (!e)
		return 0;
	e->bytes = 0;
	e->link = e->regs.bp;
	start = e->regs.sp & ~(PAGE - 1UL);
	top = end_of_go_stack(&e->regs);
	if (!top)
		top = end ? end : start + STACK_BYTES;
	e->pieces[0].at = start;
	e->pieces[0].bytes = copy_pages(e, start, top, limit, end);
	on = true;
	if (e->event.key.nr == NR_RT_SIGRETURN && e->event.key.abi == ABI_AMD64 &&
	    !bpf_probe_read_user(&start, sizeof(start), (void *)(e->regs.sp + UCONTEXT_SP)))
		bpf_probe_read_user(&e->link, sizeof(e->link), (void *)(e->regs.sp + UCONTEXT_BP));
	else
		on = follow_links(e, start, start + e->pieces[0].bytes), start = e->link;
	for (int i = 1; i < MAX_PIECES; i++) {
		e->pieces[i].at = e->pieces[i].bytes = 0;
		if (!on)
			continue;
		start &= ~(PAGE - 1UL);
		e->top = start;
		on = follow_links(e, start, start + FAR_BYTES / 2);
		e->pieces[i].at = start;
		/* The outermost frames have no link. */
		e->pieces[i].bytes = copy_pages(e, start, e->top + PAGE, FAR_BYTES / 2, false);
		start = e->link;
	}
	return 0;
}

static long ring_has_room(u32 i, void *unused)
{
	return bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) < RING_FULL;
}

/*
 * Slow a target down that makes captures faster than user space takes them, a
 * millisecond a call at most: better than losing the call. It happens for a
 * moment when the rows of a large file are made on a busy machine.
 */
static __always_inline void hold_back(void)
{
	if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) >= RING_FULL)
		bpf_loop(HOLD_BACK_SPINS, ring_has_room, NULL, 0);
}

/* How much of a stack to copy: less when many captures wait. */
static __always_inline u32 capture_limit(u32 flags)
{
	if (!(flags & CAPTURE_CHAIN))
		return TOP_BYTES;
	return bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) < RING_BYTES / 8 ? STACK_BYTES : 3 * TOP_BYTES;
}

static __always_inline long send_capture(struct capture_event *e, u64 end, u32 limit)
{
	u64 bytes;

	copy_stacks(e, end, limit);
	bytes = e->bytes;
	if (bytes > STACK_BYTES + FAR_BYTES)
		bytes = STACK_BYTES + FAR_BYTES;
	return bpf_ringbuf_output(&events, e, __builtin_offsetof(struct capture_event, stack) + bytes, 0);
}

/* Hand the stack to user space. */
static __noinline int capture(struct task_struct *task, struct pt_regs *regs,
			      struct count_key *key, u32 flags, struct walk *w)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct capture_event *e = bpf_map_lookup_elem(&captures, &cpu);
	struct mapping m = {};

	if (!e || !key || !task || !regs || !w)
		return -1;
	fill_event(&e->event, EVENT_CAPTURE, task, key);
	e->event.flags = flags;
	e->end = w->end;
	e->object = w->missing;
	read_registers(&e->regs, regs);
	bpf_find_vma(bpf_get_current_task_btf(), e->regs.sp, read_mapping, &m, 0);
	hold_back();
	if (send_capture(e, m.end, capture_limit(flags))) {
		if (flags & CAPTURE_CHAIN)
			increment(key->program, TALLY_LOST_STACKS);
		if (!(flags & CAPTURE_COUNT))
			return -1;
		/* A chain is worth less than a call: the top may find room. */
		e->event.flags = CAPTURE_COUNT;
		if (send_capture(e, m.end, TOP_BYTES)) {
			increment(key->program, TALLY_LOST);
			return -1;
		}
	}
	return 0;
}

/* What to capture of a call that could not be attributed: the whole stack at the first sight of its site. */
static __always_inline u32 capture_of_call(struct pt_regs *regs, struct count_key *key)
{
	struct capture_key site = { .ip = regs->ip, .program = key->program, .nr = key->nr };
	u32 seen = 1;

	bpf_probe_read_user(&site.word, sizeof(site.word), (void *)regs->sp);
	if (every_chain || !bpf_map_update_elem(&captured, &site, &seen, BPF_NOEXIST))
		return CAPTURE_COUNT | CAPTURE_CHAIN;
	return CAPTURE_COUNT;
}

static __always_inline void send_stack(struct task_struct *task, struct walk *w,
				       struct count_key *key)
{
	struct stack_event *e = (struct stack_event *)w->room;
	u32 depth = w->depth;

	fill_event(&e->event, EVENT_STACK, task, key);
	e->depth = depth;
	e->end = w->end;
	if (depth > MAX_FRAMES)
		depth = MAX_FRAMES;
	if (bpf_ringbuf_output(&events, e,
			       __builtin_offsetof(struct stack_event, frames) +
				       depth * sizeof(struct frame), 0))
		increment(key->program, TALLY_LOST_STACKS);
}

static __always_inline bool can_retry(u32 end)
{
	return end >= WALK_NO_ROWS;
}

/* Walk the rest of the stack; send it when the key or the chain is new. Returns what to capture. */
static __always_inline u32 walk_chain(struct task_struct *task, struct walk *w,
				      struct count_key *key, bool fresh)
{
	struct chain_key chain = {};
	struct count one = { .calls = 1 }, *known;

	if (w->end == WALK_ORIGIN) {
		w->stop = 0;
		walk_on(w);
	}
	if (can_retry(w->end))
		return CAPTURE_CHAIN;
	if (w->end != WALK_OUTERMOST)
		increment(key->program, TALLY_BROKEN);
	chain.chain = w->chain;
	chain.program = key->program;
	chain.nr = key->nr;
	chain.abi = key->abi;
	known = bpf_map_lookup_elem(&chains, &chain);
	if (known)
		__sync_fetch_and_add(&known->calls, 1);
	else if (bpf_map_update_elem(&chains, &chain, &one, BPF_NOEXIST) && !fresh)
		return 0;
	if (fresh || !known)
		send_stack(task, w, key);
	return 0;
}

/* Whole stacks are walked at powers of two and at every 1024th call. */
static __always_inline bool sampled(u64 calls)
{
	return !(calls & (calls - 1)) || !(calls & 1023);
}

static __always_inline void send_call(struct task_struct *task, struct count_key *key)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		increment(key->program, TALLY_STREAM_LOST);
		return;
	}
	fill_event(e, EVENT_CALL, task, key);
	bpf_ringbuf_submit(e, 0);
}

static __always_inline u64 count_call(struct count_key *key)
{
	struct count one = { .calls = 1 };
	struct count *count = bpf_map_lookup_elem(&counts, key);

	if (count)
		return __sync_fetch_and_add(&count->calls, 1) + 1;
	if (!bpf_map_update_elem(&counts, key, &one, BPF_NOEXIST))
		return 1;
	count = bpf_map_lookup_elem(&counts, key); /* another CPU was faster */
	if (count)
		return __sync_fetch_and_add(&count->calls, 1) + 1;
	increment(key->program, TALLY_LOST);
	return 0;
}

/* Charge a walked call. */
static __always_inline void attribute(struct walk *w, struct count_key *key)
{
	key->origin = w->origin;
	key->via = w->via;
	if (w->found)
		return;
	if (w->end == WALK_OUTERMOST && w->depth) {
		/* conduits only: the outermost is the origin */
		key->origin = w->frames[(w->depth - 1 - w->base) & (MAX_FRAMES - 1)];
		return;
	}
	key->via = w->frames[0];
	increment(key->program, TALLY_UNATTRIBUTED);
}

static __noinline int trace_call(struct task_struct *task, struct pt_regs *regs, long nr)
{
	struct count_key key = {};
	struct mm_struct *mm;
	struct task *traced;
	struct walk *w;
	u32 zero = 0, flags = 0;
	u64 calls;

	traced = bpf_task_storage_get(&tasks, task, 0, 0);
	if (!traced)
		return 0;
	mm = task->mm;
	if (!mm)
		return 0;
	w = bpf_map_lookup_elem(&walks, &zero);
	if (!w)
		return 0;
	if (!traced->program)
		traced->program = find_program(task);

	key.program = traced->program;
	key.nr = nr;
	key.abi = abi_of(task, nr);

	if (traced->view.adding)
		end_adding(&traced->view);
	if (may_add_code(regs, key.abi, nr))
		begin_adding(&traced->view, (u64)mm);
	walk_start(w, regs, space_of(&traced->view, mm, 0), true);
	walk_on(w);
	if (can_retry(w->end)) {
		flags = capture_of_call(regs, &key);
	} else {
		attribute(w, &key);
		calls = count_call(&key);
		if (every_chain || sampled(calls))
			flags = walk_chain(task, w, &key, calls == 1);
		if (stream)
			send_call(task, &key);
	}
	if (flags)
		capture(task, regs, &key, flags, w);
	return 0;
}

/* Short, because all processes on the machine run it. */
SEC("tp_btf/sys_enter")
int BPF_PROG(sys_enter, struct pt_regs *regs, long nr)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return task->bpf_storage ? trace_call(task, regs, nr) : 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(sched_process_fork, struct task_struct *parent, struct task_struct *child)
{
	struct task *from, *to, start = {};
	u64 from_mm, to_mm;
	struct space *space;

	from = bpf_task_storage_get(&tasks, parent, 0, 0);
	if (!from || (!follow && parent->tgid != child->tgid))
		return 0;
	start.program = from->program;
	to = bpf_task_storage_get(&tasks, child, &start, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!to) /* maybe because the iterator makes it at this moment */
		to = bpf_task_storage_get(&tasks, child, 0, 0);
	if (!to) {
		increment(from->program, TALLY_UNTRACKED);
		return 0;
	}
	/* The iterator may have marked the child already. */
	count_in(&to->alive);
	/* A copied address space has the same code at the same places. */
	from_mm = (u64)BPF_CORE_READ(parent, mm);
	to_mm = (u64)BPF_CORE_READ(child, mm);
	space = bpf_map_lookup_elem(&spaces, &from_mm);
	if (space && from_mm != to_mm) {
		struct space same = *space;

		bpf_map_update_elem(&spaces, &to_mm, &same, BPF_ANY);
	}
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(sched_process_exec, struct task_struct *task)
{
	struct task *traced;

	traced = bpf_task_storage_get(&tasks, task, 0, 0);
	if (!traced)
		return 0;
	traced->program = 0;
	renew_space((u64)BPF_CORE_READ(task, mm)); /* maybe at the place of an older one */
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(sched_process_exit, struct task_struct *task)
{
	struct task *traced;

	traced = bpf_task_storage_get(&tasks, task, 0, 0);
	if (!traced)
		return 0;
	if (traced->view.adding)
		end_adding(&traced->view);
	count_out(&traced->alive);
	return 0;
}

/* Mark all threads of the process mark_pid. Read until nothing new is marked. */
SEC("iter/task")
int mark(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct task *traced;

	if (!is_to_be_marked(task))
		return 0;
	traced = bpf_task_storage_get(&tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!traced)
		return 0;
	if (count_in(&traced->alive) && !traced->program)
		traced->program = mark_program;
	if (is_exiting(task))
		count_out(&traced->alive);
	return 0;
}
