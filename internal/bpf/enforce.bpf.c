//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Stop the system calls that a policy does not allow to the code that makes
 * them.
 *
 * A policy is a map of filters, a few rows for each program image that it
 * lists. Calls that an image allows to all of its compartments are decided by
 * a copy of that filter in the task's storage. For all others the stack is
 * walked to the first frame outside the conduits (or to its end), and the
 * filter of its compartment decides.
 *
 * Invariants:
 *  - Only marked tasks, those with storage in `tasks`, are ever stopped.
 *    Children inherit the mark before they run.
 *  - A policy has a generation. Its filters, images and bindings are complete
 *    before `generation` names it, and stay for at least one more swap, so
 *    that a call is judged by one policy from its beginning to its end.
 *  - Whatever is not known (a program image, an object, the rows of one, a
 *    stack that cannot be walked, a number beyond the filters) is denied
 *    unless ROW_UNKNOWN of the image allows the call.
 *  - `denied` is set at the entry of a call and cleared at the entry of the
 *    thread's next one: the hooks in between belong to that call.
 */
#include "tasks.h"
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define NUMBERS 576 /* x32's own calls end at 547 */
#define WORDS (NUMBERS / 64)
#define ABIS 3
#define GENERATIONS 64 /* a power of two; how many swaps a filter map survives at most */
#define MAX_BINDINGS 65536
#define MAX_IMAGES 1024
#define RING_BYTES (4 << 20)
/* The calls that may add code, of those below 64. */
#define ADDING_FIRST_WORD (1ULL << NR_MMAP | 1ULL << NR_MPROTECT | 1ULL << NR_MREMAP | 1ULL << NR_SHMAT)
#define TEXTS 2         /* of the first arguments */
#define TEXT_BYTES 128
#define SIGKILL 9
#define EPERM 1
#define ENOSYS 38

/* Rows of an image in its policy. Those from row 0 on are for programs that the policy does not list. */
enum filter_row {
	ROW_ALL,     /* what all compartments may do */
	ROW_COVERED, /* what an LSM hook denies before it takes effect */
	ROW_UNKNOWN, /* the first compartment */
	ROWS,        /* of an image without other compartments */
};

enum answer {
	ANSWER_AUDIT,
	ANSWER_KILL,
	ANSWER_DENY,
};

enum exec_answer {
	EXEC_DENY,
	EXEC_INHERIT,
};

/* What may be called, and in ROW_ALL how the image is governed. */
struct filter {
	u64 calls[ABIS][WORDS];
	u32 answer;  /* enum answer */
	u32 on_exec; /* enum exec_answer; in row 0 */
	u32 chain;   /* every compartment on the stack has to allow the call */
	u32 pad;
};

/* A region's compartment, under an image of a policy. */
struct binding_key {
	u32 generation;
	u32 image;
	u32 region;
};

enum binding_flags {
	BINDING_CONDUIT = REGION_CONDUIT,
	BINDING_CALLS = 0x100, /* return addresses follow calls: not so in Go, whose runtime puts calls in */
};

struct binding {
	u32 compartment; /* a row */
	u32 flags;       /* enum binding_flags */
};

struct image_key {
	u32 generation;
	u32 object;
};

#define SITES 16 /* a power of two */
#define NO_RETURN 0x7fffffff

/*
 * A call that was allowed to its origin, which holds the system call
 * instruction or has called the function that does. That function finds its
 * return address at a fixed distance from the stack pointer, so the same
 * instruction with the same return address, in the same space, has the same
 * origin.
 */
struct site {
	u64 ip;
	u64 back;  /* the return address */
	u32 space;
	u32 nr;    /* of amd64 */
	s32 at;    /* of back, from the stack pointer; NO_RETURN: the instruction is the origin's own */
	u32 pad;
};

struct task {
	struct view view;
	u32 program;    /* the object whose image governs the task */
	u32 image;      /* its row; 0: none */
	u32 generation; /* of image and all; 0: to be looked up */
	u32 fresh;      /* the program was just executed */
	u32 alive;      /* counted in live */
	u32 denied;     /* the error number that hooks return */
	u64 all[WORDS]; /* of ROW_ALL, less the calls that may add code */
	struct site sites[SITES];
};

enum violation_kind {
	VIOLATION_CALL,
	VIOLATION_EXEC, /* a program that the policy does not list */
};

/* The string that an argument points to, if it is one. */
struct text {
	u32 length; /* with the zero; 0: not readable */
	u8 bytes[TEXT_BYTES];
};

struct violation {
	u64 time; /* CLOCK_MONOTONIC, ns */
	u64 args[6];
	u64 ip;
	u32 kind; /* enum violation_kind */
	u32 pid;  /* process, in the owner's PID namespace */
	u32 tid;
	u32 generation;
	u32 image;
	u32 compartment; /* a row */
	u32 program;     /* object */
	u32 abi;
	u32 nr;
	u32 answer; /* enum answer: what was done */
	u32 end;    /* enum walk_end */
	u32 missing; /* WALK_NO_ROWS: the object */
	u32 at;      /* the frame of the compartment */
	u32 depth;
	struct text text[TEXTS];
	struct frame frames[MAX_FRAMES];
};

enum tally {
	TALLY_LOST,      /* violations that found no room in the ring */
	TALLY_UNTRACKED, /* children that could not be marked, and were killed */
	TALLY_UNKILLED,  /* tasks that could not be killed */
	TALLIES,
};

u64 tallies[TALLIES] = {};
/* Of the process to mark. */
u32 mark_program = 0;
/* What its threads begin with: too large for a stack. Only the iterator, which one process reads, writes it. */
struct task marked = {};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct task);
} tasks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, GENERATIONS);
	__type(key, u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(map_flags, BPF_F_INNER_MAP);
		__uint(max_entries, ROWS);
		__uint(key_size, sizeof(u32));
		__uint(value_size, sizeof(struct filter));
	});
} policies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_BINDINGS);
	__type(key, struct binding_key);
	__type(value, struct binding);
} bindings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_IMAGES);
	__type(key, struct image_key);
	__type(value, u32);
} images SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} violations SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct walk);
} walks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct violation);
} reports SEC(".maps");

/* For bpf2go: types that only user space names. */
const struct filter *unused_filter __attribute__((unused));
const enum binding_flags *unused_binding_flags __attribute__((unused));
const enum filter_row *unused_filter_row __attribute__((unused));
const enum answer *unused_answer __attribute__((unused));
const enum exec_answer *unused_exec_answer __attribute__((unused));
const enum violation_kind *unused_violation_kind __attribute__((unused));
const enum tally *unused_tally __attribute__((unused));

/* A call under judgement. */
struct call {
	struct task *task;
	struct walk *walk;
	void *policy;
	u32 abi;
	u32 nr;
	u32 compartment; /* that was not allowed */
	u32 at;          /* its frame */
};

static __always_inline void count(u32 tally)
{
	__sync_fetch_and_add(&tallies[tally], 1);
}

static __always_inline void *policy_of(u32 policy)
{
	u32 slot = policy % GENERATIONS;

	return bpf_map_lookup_elem(&policies, &slot);
}

static __always_inline struct filter *filter_at(void *policy, u32 row)
{
	return bpf_map_lookup_elem(policy, &row);
}

static __always_inline bool has_call(struct filter *filter, u32 abi, u32 nr)
{
	u32 word = nr / 64;

	if (!filter || abi >= ABIS || word >= WORDS)
		return false;
	return filter->calls[abi][word] >> (nr % 64) & 1;
}

/* Whether a call instruction ends where the bytes do: e8 rel32, or one of the forms of ff /2. */
static __always_inline bool ends_with_call(u8 *code)
{
	if (code[3] == 0xe8)
		return true;
	return (code[6] == 0xff && (code[7] & 0x38) == 0x10) || (code[5] == 0xff && (code[6] & 0x38) == 0x10) ||
	       (code[4] == 0xff && (code[5] & 0x38) == 0x10) || (code[2] == 0xff && (code[3] & 0x38) == 0x10) ||
	       (code[1] == 0xff && (code[2] & 0x38) == 0x10);
}

/*
 * Whether an address of the current frame, which is no frame 0, can be where a
 * call returns to. Signal trampolines and the first functions of threads are
 * entered in other ways. Code that is not in memory at the moment is not
 * looked at.
 */
static __always_inline bool may_be_return(struct walk *w, struct code *code)
{
	u32 index = code->rule;
	struct rule *rule = bpf_map_lookup_elem(&rules, &index);
	u8 bytes[8];

	if (rule && (rule->kind == RULE_SIGNAL || rule->kind == RULE_END))
		return true;
	if (bpf_probe_read_user(bytes, sizeof(bytes), (void *)(w->ip - sizeof(bytes))))
		return true;
	return ends_with_call(bytes);
}

/* What walk.h leaves to us: the compartment of a resolved address. */
static __always_inline int resolved(struct walk *w, struct code *code)
{
	struct binding_key key = { .generation = w->generation, .image = w->image, .region = code->region };
	struct binding *binding = bpf_map_lookup_elem(&bindings, &key);

	if (!binding) {
		w->missing = code->object;
		return WALK_NO_ROWS;
	}
	code->compartment = binding->compartment;
	code->flags = (code->flags & REGION_BASE) | (binding->flags & REGION_CONDUIT);
	if (!w->started || w->exact)
		return WALK_GOING; /* this address, and not as one to return to */
	if (binding->flags & BINDING_CALLS && !may_be_return(w, code))
		return WALK_FORGED;
	code->flags |= CODE_RETURN;
	return WALK_GOING;
}

static __always_inline void kill(void)
{
	if (bpf_send_signal(SIGKILL))
		count(TALLY_UNKILLED);
}

static __always_inline void read_arguments(u64 *args, struct pt_regs *regs, u32 abi)
{
	if (abi == ABI_I386) {
		args[0] = (u32)regs->bx;
		args[1] = (u32)regs->cx;
		args[2] = (u32)regs->dx;
		args[3] = (u32)regs->si;
		args[4] = (u32)regs->di;
		args[5] = (u32)regs->bp;
		return;
	}
	args[0] = regs->di;
	args[1] = regs->si;
	args[2] = regs->dx;
	args[3] = regs->r10;
	args[4] = regs->r8;
	args[5] = regs->r9;
}

/* Tell user space. */
static __noinline int report(struct call *c, struct pt_regs *regs, u32 kind, u32 answer)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u32 zero = 0, depth;
	struct violation *v = bpf_map_lookup_elem(&reports, &zero);
	struct walk *w;

	if (!v || !c || !regs)
		return 0;
	w = c->walk;
	v->time = bpf_ktime_get_ns();
	read_arguments(v->args, regs, c->abi);
	for (u32 i = 0; i < TEXTS; i++) {
		long length = bpf_probe_read_user_str((char *)v->text[i].bytes, TEXT_BYTES, (void *)v->args[i]);

		v->text[i].length = length > 0 ? length : 0;
	}
	v->ip = regs->ip;
	v->kind = kind;
	v->pid = pid_in_namespace(task->group_leader);
	v->tid = pid_in_namespace(task);
	v->generation = c->task->generation;
	v->image = c->task->image;
	v->program = c->task->program;
	v->compartment = c->compartment;
	v->abi = c->abi;
	v->nr = c->nr;
	v->answer = answer;
	v->end = w->end;
	v->missing = w->missing;
	v->at = c->at;
	depth = w->depth;
	if (depth > MAX_FRAMES)
		depth = MAX_FRAMES;
	v->depth = depth;
	bpf_probe_read_kernel(v->frames, depth * sizeof(struct frame), w->frames);
	if (bpf_ringbuf_output(&violations, v,
			       __builtin_offsetof(struct violation, frames) + depth * sizeof(struct frame), 0))
		count(TALLY_LOST);
	return 0;
}

/* One frame of a stack of which every compartment has to allow the call. */
static long check_frame(u32 i, struct call *c)
{
	struct walk *w = c->walk;
	int end = WALK_GOING;

	if (w->started)
		end = leave(w);
	if (!end)
		end = enter(w);
	w->end = end;
	if (end)
		return 1;
	if (w->conduit || w->compartment == c->compartment)
		return 0;
	c->compartment = w->compartment;
	c->at = w->depth - 1;
	if (has_call(filter_at(c->policy, w->compartment), c->abi, c->nr))
		return 0;
	w->end = WALK_DENIED;
	return 1;
}

/* Whether the code on the stack may make the call; sets the compartment that decided. */
static __always_inline bool allowed(struct call *c)
{
	struct walk *w = c->walk;
	u32 unknown = c->task->image + ROW_UNKNOWN;

	c->compartment = unknown;
	if (!w->every) {
		walk_on(w);
		if (w->found || (w->end == WALK_OUTERMOST && w->depth)) {
			c->compartment = w->compartment;
			c->at = w->depth - 1 - (w->found ? 0 : w->base);
		}
	} else {
		c->compartment = 0;
		bpf_loop(MAX_FRAMES + 1, check_frame, c, 0);
		if (w->end == WALK_DENIED)
			return false;
		if (w->end != WALK_OUTERMOST || !w->depth) {
			c->compartment = unknown; /* the stack's other end */
			c->at = w->depth;
		} else if (!w->found) {
			c->compartment = w->compartment; /* conduits only: the outermost */
			c->at = w->depth - 1 - w->base;
		} else {
			return true;
		}
	}
	return has_call(filter_at(c->policy, c->compartment), c->abi, c->nr);
}

/*
 * Stop the call: by the hooks on its way if there are some, else the process.
 * Calls that came with Linux 4.18 or later (rseq was the first of them) fail
 * as on a kernel that lacks them, which their callers know how to take.
 */
static __always_inline void stop(struct call *c, struct pt_regs *regs, u32 answer)
{
	struct task *t = c->task;

	if (answer == ANSWER_DENY && !has_call(filter_at(c->policy, t->image + ROW_COVERED), c->abi, c->nr))
		answer = ANSWER_KILL;
	if (c->walk->end == WALK_ORIGIN || c->walk->end == WALK_DENIED) {
		c->walk->stop = 0;
		walk_on(c->walk); /* the rest of the stack is for the report */
	}
	report(c, regs, VIOLATION_CALL, answer);
	if (answer == ANSWER_AUDIT)
		return;
	if (answer == ANSWER_KILL)
		kill();
	/* A signal is not taken before the call returns: what hooks can deny is denied as well. */
	bool young = c->nr >= (c->abi == ABI_I386 ? 386 : 334);

	t->denied = young ? ENOSYS : EPERM;
	t->generation = 0; /* the next call must pass here to clear it */
}

/* Find the image of the task's program under the policy, and copy what it allows to all. */
static __noinline int look_up_image(struct task_struct *task, struct task *t, u32 policy)
{
	struct image_key key = { .generation = policy };
	struct filter *filter, *unlisted;
	u32 *image;
	void *filters = policy_of(policy);

	if (!task || !t || !filters || !task->mm)
		return 0;
	if (t->fresh) {
		key.object = main_object(task);
		image = bpf_map_lookup_elem(&images, &key);
		unlisted = filter_at(filters, ROW_ALL);
		if (image || !unlisted || unlisted->on_exec != EXEC_INHERIT)
			t->program = key.object;
	}
	key.object = t->program;
	image = bpf_map_lookup_elem(&images, &key);
	t->image = image ? *image : 0;
	filter = filter_at(filters, t->image + ROW_ALL);
	if (!filter)
		return 0;
	__builtin_memcpy(t->all, filter->calls[ABI_AMD64], sizeof(t->all));
	t->all[NR_MMAP / 64] &= ~ADDING_FIRST_WORD;
	t->all[NR_PKEY_MPROTECT / 64] &= ~(1ULL << (NR_PKEY_MPROTECT % 64));
	t->generation = policy;
	return 1;
}

static __always_inline struct site *site_at(struct task *t, u64 ip, u32 nr)
{
	u32 index = (ip ^ ip >> 4 ^ nr) & (SITES - 1);

	barrier_var(index);
	return &t->sites[index & (SITES - 1)];
}

/* Whether the same call was allowed before. */
static __always_inline bool is_known(struct task_struct *task, struct task *t, struct pt_regs *regs, u32 nr)
{
	struct site *site = site_at(t, regs->ip, nr);
	u64 back;

	if (site->ip != regs->ip || site->nr != nr || site->space != t->view.space || t->view.adding ||
	    !task->mm || !holds(&t->view, task->mm, t->generation))
		return false;
	if (site->at == NO_RETURN)
		return true;
	return !bpf_probe_read_user(&back, sizeof(back), (void *)(regs->sp + site->at)) && back == site->back;
}

/* Note a call that is allowed to its origin. Those that may add code have to be judged each time. */
static __always_inline void remember(struct call *c, struct pt_regs *regs)
{
	struct walk *w = c->walk;
	u32 index = w->first_rule;
	struct rule *rule = bpf_map_lookup_elem(&rules, &index);
	struct site *site = site_at(c->task, regs->ip, c->nr);

	if (w->end != WALK_ORIGIN || c->abi != ABI_AMD64 || c->nr == NR_PKEY_MPROTECT ||
	    (c->nr < 64 && ADDING_FIRST_WORD >> c->nr & 1) || w->space != c->task->view.space || !c->task->view.mm)
		return;
	if (w->depth == 1)
		site->at = NO_RETURN;
	else if (w->depth == 2 && rule && rule->kind == RULE_REGISTER && rule->reg == REG_SP &&
		 !(rule->flags & (RA_IN_REGISTER | STACK_SWITCH)))
		site->at = rule->cfa_offset + rule->ra_offset;
	else
		return;
	site->ip = regs->ip;
	site->back = w->ip;
	site->nr = c->nr;
	site->space = w->space;
}

/* What the copy in the task's storage does not decide. */
static __noinline int judge(struct task_struct *task, struct task *t, struct pt_regs *regs, long nr)
{
	u32 zero = 0, policy = *(volatile u32 *)&generation, fresh;
	struct call c = { .task = t };
	struct filter *all;

	if (!task || !t || !regs || !task->mm)
		return 0;
	t->denied = 0;
	c.abi = abi_of(task, nr);
	c.nr = c.abi == ABI_X32 ? nr & ~X32_SYSCALL_BIT : nr;
	c.walk = bpf_map_lookup_elem(&walks, &zero);
	c.policy = policy_of(policy);
	if (!c.walk || !c.policy) {
		kill();
		return 0;
	}
	if (t->view.adding)
		end_adding(&t->view);
	if (may_add_code(regs, c.abi, c.nr))
		begin_adding(&t->view, (u64)task->mm);
	fresh = t->fresh;
	if (t->generation != policy && !look_up_image(task, t, policy)) {
		kill();
		return 0;
	}
	t->fresh = 0;
	all = filter_at(c.policy, t->image + ROW_ALL);
	if (!all) {
		kill();
		return 0;
	}
	walk_start(c.walk, regs, space_of(&t->view, task->mm, policy), true);
	if (fresh && !t->image) {
		report(&c, regs, VIOLATION_EXEC, all->answer);
		if (all->answer != ANSWER_AUDIT)
			kill();
		return 0;
	}
	if (has_call(all, c.abi, c.nr))
		return 0;
	c.walk->generation = policy;
	c.walk->image = t->image;
	c.walk->every = all->chain;
	c.walk->stop = !all->chain;
	if (!allowed(&c))
		stop(&c, regs, all->answer);
	else if (!all->chain)
		remember(&c, regs);
	return 0;
}

/* Short, because all processes on the machine run it. */
SEC("tp_btf/sys_enter")
int BPF_PROG(enforce_call, struct pt_regs *regs, long number)
{
	struct task_struct *task = bpf_get_current_task_btf();
	long nr = (int)number;
	struct task *t;
	u32 word;

	if (!task->bpf_storage)
		return 0;
	t = bpf_task_storage_get(&tasks, task, 0, 0);
	if (!t || nr < 0) /* no such call */
		return 0;
	word = nr / 64;
	barrier_var(word); /* the verifier needs the bound of the index, not of the number */
	if (word < WORDS && t->generation == generation && !(task->thread_info.status & TS_COMPAT) &&
	    (t->all[word] >> (nr % 64) & 1 || is_known(task, t, regs, nr)))
		return 0;
	return judge(task, t, regs, nr);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(enforce_fork, struct task_struct *parent, struct task_struct *child)
{
	struct task *from, *to;
	u64 mm;

	if (!parent->bpf_storage)
		return 0;
	from = bpf_task_storage_get(&tasks, parent, 0, 0);
	if (!from)
		return 0;
	to = bpf_task_storage_get(&tasks, child, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!to) /* maybe because the iterator makes it at this moment */
		to = bpf_task_storage_get(&tasks, child, 0, 0);
	if (!to) {
		count(TALLY_UNTRACKED);
		kill(); /* the parent, before it can use an unguarded child */
		return 0;
	}
	to->program = from->program; /* the child does not run yet */
	to->image = from->image;
	to->fresh = from->fresh;
	count_in(&to->alive);
	mm = (u64)child->mm;
	if (mm != (u64)parent->mm)
		renew_space(mm); /* maybe at the place of an older one */
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(enforce_exec, struct task_struct *task)
{
	struct task *t;

	if (!task->bpf_storage)
		return 0;
	t = bpf_task_storage_get(&tasks, task, 0, 0);
	if (!t)
		return 0;
	t->fresh = 1;
	t->generation = 0;
	renew_space((u64)task->mm);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(enforce_exit, struct task_struct *task)
{
	struct task *t;

	if (!task->bpf_storage)
		return 0;
	t = bpf_task_storage_get(&tasks, task, 0, 0);
	if (!t)
		return 0;
	if (t->view.adding)
		end_adding(&t->view);
	count_out(&t->alive);
	return 0;
}

/* Mark all threads of the process mark_pid. Read until nothing new is marked. */
SEC("iter/task")
int guard(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct task *t;

	if (!is_to_be_marked(task))
		return 0;
	marked.program = mark_program;
	t = bpf_task_storage_get(&tasks, task, &marked, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!t) {
		count(TALLY_UNTRACKED);
		return 0;
	}
	count_in(&t->alive);
	if (is_exiting(task))
		count_out(&t->alive);
	return 0;
}

/* Returns what every hook returns: the verdict on the call that the thread is in. */
static __always_inline int verdict(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task *t;

	if (!task->bpf_storage)
		return 0;
	t = bpf_task_storage_get(&tasks, task, 0, 0);
	if (!t || !t->denied)
		return 0;
	return t->denied == ENOSYS ? -ENOSYS : -EPERM;
}

#define HOOK(name)               \
	SEC("lsm/" #name)            \
	int deny_##name(void *ctx)   \
	{                            \
		return verdict();        \
	}
#include "hooks.h"
