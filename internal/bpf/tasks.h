/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The tasks that a program looks after, and the address spaces that they run
 * in. A task is marked when it has storage; user space marks the first ones
 * through an iterator, children inherit the mark before they run.
 *
 * Invariants of spaces:
 *  - A space is the identifier of an address space for as long as its
 *    executable mappings, and the policy that its code was judged by, do not
 *    change. It is never given twice.
 *  - Mappings change in system calls only, and every call of a marked task
 *    passes space_of. A change that leaves mm->exec_vm, the number of
 *    executable pages, as it was needs a call that adds code: while one is
 *    under way, in any thread, no space is remembered (see begin_adding).
 */
#pragma once

#include "walk.h"
#include <bpf/bpf_core_read.h>

#define MAX_SPACES 16384

/* The process to mark, in the PID namespace of the program's owner. */
u32 mark_pid = 0;
/* That namespace and its depth: noted when the owner runs the iterator. */
u64 pid_space = 0;
u32 pid_level = 0;
/* Marked threads alive. */
u64 live = 0;
u32 next_space = 1;
/* How often any address space got a new number. */
u32 space_changes = 0;
/* Of the policy; tracing has none. */
u32 generation = 0;

enum abi {
	ABI_AMD64,
	ABI_I386,
	ABI_X32,
};

struct space {
	u64 exec_pages;
	u32 id;
	u32 generation;
};

/* A thread's own copy of what space_of found, good while all of it holds. */
struct view {
	u64 mm;
	u64 exec_pages;
	u64 adding; /* the address space to which the thread's call adds code */
	u32 space_changes;
	u32 generation;
	u32 space;
	u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_SPACES);
	__type(key, u64);
	__type(value, struct space);
} spaces SEC(".maps");

/* How many calls that add code are under way, by address space. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_SPACES);
	__type(key, u64);
	__type(value, u32);
} adding SEC(".maps");

static __always_inline u32 abi_of(struct task_struct *task, long nr)
{
	if (task->thread_info.status & TS_COMPAT)
		return ABI_I386;
	return nr >= 0 && nr & X32_SYSCALL_BIT ? ABI_X32 : ABI_AMD64;
}

static __noinline u32 look_up_space(struct view *view, u64 mm, u64 pages, u32 policy)
{
	u32 changes = *(volatile u32 *)&space_changes; /* first: what comes in between is seen at the next call */
	struct space fresh = { .exec_pages = pages, .generation = policy };
	struct space *space;
	u32 *count;

	if (!view)
		return 0;
	count = bpf_map_lookup_elem(&adding, &mm);
	space = bpf_map_lookup_elem(&spaces, &mm);
	if (count && *(volatile u32 *)count) {
		view->mm = 0;
		return __sync_fetch_and_add(&next_space, 1);
	}
	if (space && space->exec_pages == pages && space->generation == policy) {
		fresh = *space;
	} else {
		fresh.id = __sync_fetch_and_add(&next_space, 1);
		bpf_map_update_elem(&spaces, &mm, &fresh, BPF_ANY);
		__sync_fetch_and_add(&space_changes, 1);
	}
	view->mm = mm;
	view->exec_pages = pages;
	view->space_changes = changes;
	view->generation = policy;
	view->space = fresh.id;
	return fresh.id;
}

/*
 * Whether a thread's own copy holds. As long as no space has changed, threads
 * need not look theirs up.
 */
static __always_inline bool holds(struct view *view, struct mm_struct *mm, u32 policy)
{
	return view->mm == (u64)mm && view->exec_pages == mm->exec_vm && view->generation == policy &&
	       view->space_changes == *(volatile u32 *)&space_changes;
}

/* The space of the current address space. */
static __always_inline u32 space_of(struct view *view, struct mm_struct *mm, u32 policy)
{
	return holds(view, mm, policy) ? view->space : look_up_space(view, (u64)mm, mm->exec_vm, policy);
}

static __always_inline void renew_space(u64 mm)
{
	bpf_map_delete_elem(&spaces, &mm);
	__sync_fetch_and_add(&space_changes, 1);
}

#define NR_MMAP 9
#define NR_MPROTECT 10
#define NR_MREMAP 25
#define NR_SHMAT 30
#define NR_PKEY_MPROTECT 329
#define NR_I386_MMAP 90
#define NR_I386_MPROTECT 125
#define NR_I386_MREMAP 163
#define NR_I386_MMAP2 192
#define PROT_EXEC 0x4

/* Whether a call may put code where other code was, or where none was. */
static __always_inline bool may_add_code(struct pt_regs *regs, u32 abi, u32 nr)
{
	if (abi == ABI_I386)
		return nr == NR_I386_MMAP || nr == NR_I386_MMAP2 || nr == NR_I386_MPROTECT ||
		       nr == NR_I386_MREMAP;
	nr &= ~X32_SYSCALL_BIT;
	if (nr == NR_MMAP || nr == NR_MPROTECT || nr == NR_PKEY_MPROTECT)
		return regs->dx & PROT_EXEC;
	return nr == NR_MREMAP || nr == NR_SHMAT;
}

/* To be called at the entry of a call that may add code. */
static __noinline int begin_adding(struct view *view, u64 mm)
{
	u32 none = 0, *count;

	if (!view)
		return 0;
	bpf_map_update_elem(&adding, &mm, &none, BPF_NOEXIST);
	count = bpf_map_lookup_elem(&adding, &mm);
	if (count) {
		__sync_fetch_and_add(count, 1);
		view->adding = mm;
	}
	renew_space(mm);
	return 0;
}

/* To be called at the thread's next call, or when it ends. */
static __noinline int end_adding(struct view *view)
{
	u64 mm;
	u32 *count;

	if (!view)
		return 0;
	mm = view->adding;
	view->adding = 0;
	count = bpf_map_lookup_elem(&adding, &mm);
	if (count && *(volatile u32 *)count)
		__sync_fetch_and_sub(count, 1);
	renew_space(mm);
	return 0;
}

static __always_inline void read_upid(struct pid *pid, u32 level, struct upid *upid)
{
	bpf_probe_read_kernel(upid, sizeof(*upid),
			      (void *)pid + bpf_core_field_offset(struct pid, numbers) +
				      level * sizeof(*upid));
}

/* The number of a task in the owner's PID namespace; 0: it has none there. */
static __always_inline u32 pid_in_namespace(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	struct upid upid = {};

	if (!pid || BPF_CORE_READ(pid, level) < pid_level)
		return 0;
	read_upid(pid, pid_level, &upid);
	return (u64)upid.ns == pid_space ? upid.nr : 0;
}

/* To be run by the owner. */
static __always_inline void note_namespace(void)
{
	struct pid *pid = BPF_CORE_READ(bpf_get_current_task_btf(), thread_pid);
	struct upid upid = {};

	pid_level = BPF_CORE_READ(pid, level);
	read_upid(pid, pid_level, &upid);
	pid_space = (u64)upid.ns;
}

/* For the iterator, which the owner reads: whether a task is a thread of mark_pid. */
static __always_inline bool is_to_be_marked(struct task_struct *task)
{
	if (!task || !mark_pid)
		return false;
	note_namespace();
	if (pid_in_namespace(BPF_CORE_READ(task, group_leader)) != mark_pid)
		return false;
	return BPF_CORE_READ(task, mm) && !(task->flags & PF_EXITING); /* no kernel thread, not about to end */
}

/* sched_process_exit may have come before the mark. */
static __always_inline bool is_exiting(struct task_struct *task)
{
	return *(volatile unsigned int *)&task->flags & PF_EXITING;
}

/* Tasks are counted once, whoever marks them first. Returns whether it was now. */
static __always_inline bool count_in(u32 *alive)
{
	if (__sync_lock_test_and_set(alive, 1))
		return false;
	__sync_fetch_and_add(&live, 1);
	return true;
}

static __always_inline void count_out(u32 *alive)
{
	if (__sync_lock_test_and_set(alive, 0))
		__sync_fetch_and_sub(&live, 1);
}

/* The object of the current task's main executable. */
static __always_inline u32 main_object(struct task_struct *task)
{
	struct mapping m = {};

	if (bpf_find_vma(bpf_get_current_task_btf(), BPF_CORE_READ(task, mm, start_code), read_mapping, &m, 0))
		return OBJECT_UNKNOWN;
	return object_of(&m);
}

/* Run by user space on itself: the object mapped at an address of its own. */
SEC("raw_tp")
int identify(struct bpf_raw_tracepoint_args *ctx)
{
	struct mapping m = {};

	if (bpf_find_vma(bpf_get_current_task_btf(), ctx->args[0], read_mapping, &m, 0))
		return OBJECT_UNKNOWN;
	return object_of(&m);
}
