/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Walking a user stack in the kernel, without frame pointers.
 *
 * An address becomes an object and an offset into its file through the
 * kernel's own mappings (bpf_find_vma), so dlopen, dlclose, fork and exec need
 * no bookkeeping here. The offset finds an unwind row by binary search, the
 * row names a rule, and the rule leads to the caller's frame. What an address
 * resolved to is remembered per CPU, so that a call site costs the search
 * once.
 *
 * Invariants:
 *  - Programs that include this file run with preemption disabled (tracepoint
 *    and syscall entry programs do), so per-CPU memory is theirs alone.
 *  - A struct code in the cache is valid for one `space`: the identifier of an
 *    address space as long as its executable mappings do not change. Whoever
 *    may have changed them gets a new space (see tasks.h).
 *  - objects[id] is written by user space once, after its blocks, rules and
 *    regions: a reader that sees OBJECT_READY sees them.
 *  - Stack memory is read without faulting. What cannot be read ends the walk
 *    with a reason; nothing is guessed.
 *
 * internal/cfi has the same walk in Go: its specification and test oracle.
 */
#pragma once

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define MAX_FRAMES 1024
#define MAX_OBJECTS 16384
#define MAX_RULES 65536
#define MAX_REGIONS 65536
#define ROOM 8
#define BLOCK_ROWS 512     /* rows in a block: one page */
#define SHARD_BLOCKS 512   /* blocks in a shard: 2 MiB, made when needed */
#define MAX_SHARDS 256     /* 67 million rows */
#define MAX_TRIES 8
#define EBUSY 16
#define MAX_SEARCH 18      /* halvings of MAX_SHARDS * SHARD_BLOCKS */
#define CACHE_SETS 128     /* a power of two; sets are allocated one by one */
#define SET_SLOTS 32       /* a power of two */

/* Objects that no file backs. Files are numbered from OBJECT_FIRST_FILE. */
enum object_id {
	OBJECT_UNKNOWN,
	OBJECT_ANONYMOUS,
	OBJECT_VDSO,
	OBJECT_FIRST_FILE,
};

enum object_flags {
	OBJECT_READY = 1,
};

enum region_flags {
	REGION_CONDUIT = 1, /* charges its callers */
	REGION_BASE = 2,    /* where stacks of a kind all begin: never the origin while there is another frame */
};

/* Beside the flags of its region: an address may be where a call returns to. */
#define CODE_RETURN 0x8000

/* How a rule finds the canonical frame address (CFA): see internal/cfi. */
enum rule_kind {
	RULE_NONE,     /* nothing known: try the frame pointer */
	RULE_END,      /* the outermost frame */
	RULE_REGISTER, /* CFA = reg + cfa_offset */
	RULE_DEREF,    /* CFA = *(reg + cfa_offset) + cfa_addend */
	RULE_PLT,      /* CFA = rsp + cfa_offset + ((ip & 15) >= cfa_addend) * 8 */
	RULE_SIGNAL,   /* the kernel's rt_sigframe */
};

/* Offsets of the caller's rbp or rbx that are none. */
enum saved {
	SAVED_SAME = -0x7fffffff - 1,
	SAVED_UNDEFINED,
};

enum rule_flags {
	BP_AT_BP = 1,       /* the caller's rbp is at rbp + bp_offset */
	BX_AT_BP = 2,       /* the caller's rbx is at rbp + bx_offset */
	RA_IN_REGISTER = 4, /* the return address is in a register: frame 0 only */
	STACK_SWITCH = 8,   /* the caller is on another stack */
	INTERRUPTED = 16,   /* the caller did not call: its ip is exact */
};

/* DWARF register numbers: those that a rule may start from, and those that hold a return address in frame 0. */
enum dwarf_reg {
	REG_DX = 1, /* musl's vfork */
	REG_BX = 3,
	REG_DI = 5, /* glibc's vfork */
	REG_BP = 6,
	REG_SP = 7,
};

enum walk_end {
	WALK_GOING,     /* not ended */
	WALK_ORIGIN,    /* stopped at the first frame outside the conduits */
	WALK_OUTERMOST, /* the outermost frame was reached */
	WALK_DEPTH,     /* more than MAX_FRAMES frames */
	WALK_UNMAPPED,  /* a return address outside executable mappings */
	WALK_FAULT,     /* stack memory that is not readable */
	WALK_STUCK,     /* the CFA does not move towards the stack's base */
	WALK_NO_ROWS,   /* an object whose rows are not loaded yet */
	WALK_BUSY,      /* the address space was being changed */
	WALK_RULE,      /* a rule that needs a register which is not tracked */
	WALK_FORGED,    /* a return address that does not follow a call */
	WALK_DENIED,    /* stopped by the including program at a frame that it does not allow */
};

struct row {
	u32 offset;
	u16 rule;
	u16 region; /* within the object; 0: all that is in no other */
};

struct block {
	struct row rows[BLOCK_ROWS];
};

struct rule {
	u8 kind;
	u8 reg;
	u8 flags;
	u8 pad;
	s32 cfa_offset;
	s32 cfa_addend;
	s32 ra_offset;
	s32 bp_offset;
	s32 bx_offset;
};

struct object {
	u32 flags;
	u32 first_block;
	u32 blocks;
	u32 first_region;
};

/* A part of an object's code that is attributed as a unit. Regions of all objects are numbered from 1. */
struct region {
	u32 flags;
};

/* A file as the kernel knows it, whatever its path. One that is changed is another one. */
struct file_key {
	u64 inode;
	u64 size;
	u64 modified; /* ns */
	u32 device;
	u32 generation; /* of the inode number */
};

/* What an address is: an object, the place in its file, the rule and the region there. */
struct code {
	u64 address;
	u32 space;
	u32 object;
	u32 offset;
	u32 region;
	u16 rule;
	u16 flags; /* of the region */
	u32 compartment; /* for enforcement: a row of the policy */
};

struct code_set {
	struct code slots[SET_SLOTS];
};

struct frame {
	u32 object;
	u32 offset;
};

/* A register of the caller: its value, or where it was saved. It is read only
 * when a rule starts from it. */
struct saved_reg {
	u64 value;
	u32 in_memory;
	u32 undefined;
};

struct walk {
	u64 ip;
	u64 sp;
	struct saved_reg bp;
	struct saved_reg bx;
	u64 dx; /* of frame 0 */
	u64 di;
	u32 space;
	u16 rule;
	u8 exact;       /* ip is not a return address */
	u8 end;         /* enum walk_end */
	u8 stop;        /* stop at the origin */
	u8 found;       /* the origin was met */
	u8 started;     /* the current frame is recorded, its rule is known */
	u8 base;        /* the current frame is in a REGION_BASE, and its region is that of the frame before */
	u32 region;     /* of the current frame */
	u32 depth;
	u32 missing;    /* WALK_NO_ROWS: the object */
	u32 compartment; /* of that region */
	u32 generation; /* of the policy that names compartments */
	u32 image;      /* which of its images */
	u8 conduit;     /* that region is in a conduit */
	u8 every;       /* every compartment on the stack decides, not the origin alone */
	u16 first_rule; /* of frame 0 */
	u64 chain;      /* hash over the sequence of regions */
	struct frame via;    /* the last frame before the current region */
	struct frame origin; /* the first frame outside the conduits */
	u64 room[ROOM];      /* for a header when the frames are sent */
	struct frame frames[MAX_FRAMES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_SHARDS);
	__type(key, u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, SHARD_BLOCKS);
		__uint(key_size, sizeof(u32));
		__uint(value_size, sizeof(struct block));
	});
} shards SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_RULES);
	__type(key, u32);
	__type(value, struct rule);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_REGIONS);
	__type(key, u32);
	__type(value, struct region);
} regions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_OBJECTS);
	__type(key, u32);
	__type(value, struct object);
} objects SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_OBJECTS);
	__type(key, struct file_key);
	__type(value, u32);
} files SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CACHE_SETS);
	__type(key, u32);
	__type(value, struct code_set);
} code_cache SEC(".maps");

u32 next_object = OBJECT_FIRST_FILE;

struct mapping {
	struct file_key key;
	u64 start;
	u64 end;
	u64 page_offset;
	bool executable;
	bool backed;
	bool vdso;
};

/*
 * A field of a kernel structure, read by a helper. A pointer that is loaded
 * directly makes the verifier look for the names of its type among all those
 * of the kernel, which takes it a millisecond; this costs a few nanoseconds.
 */
#define read_field(to, from) bpf_probe_read_kernel(&(to), sizeof(to), &(from))

static __always_inline u64 time_modified(struct inode *inode)
{
	struct inode___mtime_sec *now = (void *)inode;
	struct inode___private_mtime *before = (void *)inode;
	struct inode___mtime *first = (void *)inode;
	long long seconds = 0;
	long ns = 0;

	if (bpf_core_field_exists(now->i_mtime_sec)) {
		u32 part = 0;

		read_field(seconds, now->i_mtime_sec);
		read_field(part, now->i_mtime_nsec);
		ns = part;
	} else if (bpf_core_field_exists(before->__i_mtime)) {
		read_field(seconds, before->__i_mtime.tv_sec);
		read_field(ns, before->__i_mtime.tv_nsec);
	} else if (bpf_core_field_exists(first->i_mtime)) {
		read_field(seconds, first->i_mtime.tv_sec);
		read_field(ns, first->i_mtime.tv_nsec);
	}
	return seconds * 1000000000ULL + ns;
}

static long read_mapping(struct task_struct *task, struct vm_area_struct *vma, struct mapping *m)
{
	struct file *file = NULL;
	struct inode *inode = NULL;
	struct super_block *device = NULL;
	struct mm_struct *mm = NULL;

	unsigned long flags = 0;

	read_field(m->start, vma->vm_start);
	read_field(m->end, vma->vm_end);
	read_field(m->page_offset, vma->vm_pgoff);
	read_field(flags, vma->vm_flags);
	m->executable = flags & VM_EXEC;
	read_field(file, vma->vm_file);
	if (file) {
		m->backed = true;
		read_field(inode, file->f_inode);
		read_field(m->key.inode, inode->i_ino);
		read_field(m->key.size, inode->i_size);
		m->key.modified = time_modified(inode);
		read_field(m->key.generation, inode->i_generation);
		read_field(device, inode->i_sb);
		read_field(m->key.device, device->s_dev);
	} else {
		void *vdso = NULL;

		read_field(mm, vma->vm_mm);
		read_field(vdso, mm->context.vdso);
		m->vdso = m->start == (u64)vdso;
	}
	return 0;
}

/*
 * The mapping at an address while somebody else changes mappings, so that
 * bpf_find_vma refuses: a fork of a large process takes milliseconds. Reads
 * the tree as the kernel's own page faults do, without its lock (Linux
 * Documentation/core-api/maple_tree.rst); what is found has to be a mapping of
 * the address space that covers the address. No tree before 6.1.
 */
#define MAPLE_DEPTH 8
#define MAPLE_NODE 4   /* MAPLE_ENODE_NULL, in every pointer to a node */
#define MAPLE_LEAF 1   /* enum maple_type: leaf_64, range_64, arange_64 */
#define MAPLE_ARANGE 3
#define MAPLE_SLOTS 16
#define MAPLE_ARANGE_SLOTS 10

struct maple_walk {
	u64 entry; /* a node with its type, or a mapping */
	u64 address;
	u32 found;
	u32 slots;
	u64 node;
	u32 slot;
	u32 type;
};

static long maple_pivot(u32 i, struct maple_walk *w)
{
	u64 pivot = 0;

	w->slot = i;
	if (i + 1 >= w->slots || bpf_probe_read_kernel(&pivot, sizeof(pivot), (void *)(w->node + 8 + 8 * i)))
		return 1;
	return w->address <= pivot || (i && !pivot); /* a pivot of 0: the rest of the node is not used */
}

static long maple_level(u32 i, struct maple_walk *w)
{
	u64 slots;

	if (!(w->entry & MAPLE_NODE) || w->entry < 4096)
		return 1; /* no node: an empty tree */
	w->type = w->entry >> 3 & 15;
	w->node = w->entry & ~255ULL;
	if (w->type < MAPLE_LEAF || w->type > MAPLE_ARANGE)
		return 1;
	w->slots = w->type == MAPLE_ARANGE ? MAPLE_ARANGE_SLOTS : MAPLE_SLOTS;
	bpf_loop(MAPLE_SLOTS, maple_pivot, w, 0);
	slots = w->node + 8 + 8 * (w->slots - 1);
	if (bpf_probe_read_kernel(&w->entry, sizeof(w->entry), (void *)(slots + 8 * w->slot)))
		return 1;
	w->found = w->type == MAPLE_LEAF;
	return w->found;
}

static __always_inline long find_mapping_unlocked(u64 address, struct mapping *m)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct mm_struct___maple *tree = (void *)task->mm;
	struct maple_walk w = { .address = address };
	struct vm_area_struct *vma;
	struct mm_struct *mm = NULL;
	void *root = NULL;

	if (!bpf_core_field_exists(tree->mm_mt))
		return -EBUSY;
	read_field(root, tree->mm_mt.ma_root);
	w.entry = (u64)root;
	bpf_loop(MAPLE_DEPTH, maple_level, &w, 0);
	if (!w.found || !w.entry)
		return -EBUSY;
	vma = (void *)w.entry;
	read_field(mm, vma->vm_mm);
	read_mapping(task, vma, m);
	if (mm != task->mm || address < m->start || address >= m->end)
		return -EBUSY;
	return 0;
}

/* The object behind a mapping; a file that was never seen gets a number. */
static __always_inline u32 object_of(struct mapping *m)
{
	u32 *known, id;

	if (!m->backed)
		return m->vdso ? OBJECT_VDSO : OBJECT_ANONYMOUS;
	known = bpf_map_lookup_elem(&files, &m->key);
	if (known)
		return *known;
	id = __sync_fetch_and_add(&next_object, 1);
	if (id >= MAX_OBJECTS)
		return OBJECT_UNKNOWN;
	if (bpf_map_update_elem(&files, &m->key, &id, BPF_NOEXIST) == 0)
		return id;
	known = bpf_map_lookup_elem(&files, &m->key); /* another CPU was faster */
	return known ? *known : OBJECT_UNKNOWN;
}

static __always_inline struct block *block_at(u32 index)
{
	u32 shard = index / SHARD_BLOCKS, slot = index % SHARD_BLOCKS;
	void *inner = bpf_map_lookup_elem(&shards, &shard);

	return inner ? bpf_map_lookup_elem(inner, &slot) : NULL;
}

/*
 * A binary search for the last row at or below offset, first among the first
 * rows of blocks, then in the block. Each halving is a bpf_loop iteration,
 * because the verifier follows every path through a plain loop.
 */
struct search {
	struct block *block;
	u32 first; /* of the object's blocks */
	u32 low;   /* is at or below */
	u32 high;  /* is above, or behind the last */
	u32 offset;
};

static long halve_blocks(u32 i, struct search *s)
{
	u32 middle = s->low + (s->high - s->low) / 2;
	struct block *block;

	if (middle == s->low)
		return 1;
	block = block_at(s->first + middle);
	if (block && block->rows[0].offset <= s->offset)
		s->low = middle;
	else
		s->high = middle;
	return 0;
}

static long halve_rows(u32 i, struct search *s)
{
	u32 middle = s->low + (s->high - s->low) / 2;

	if (middle == s->low)
		return 1;
	if (s->block->rows[middle & (BLOCK_ROWS - 1)].offset <= s->offset)
		s->low = middle;
	else
		s->high = middle;
	return 0;
}

/*
 * The rule at an offset of an object, with the region in the upper half.
 * Functions without `static` are global to the verifier: it checks them once,
 * by themselves, and not along every path that leads to them.
 */
__noinline u32 find_row(u32 first, u32 blocks, u32 offset)
{
	struct search s = { .first = first, .high = blocks, .offset = offset };

	if (!blocks)
		return 0;
	bpf_loop(MAX_SEARCH, halve_blocks, &s, 0);
	s.block = block_at(first + s.low);
	if (!s.block || s.block->rows[0].offset > offset)
		return 0;
	s.low = 0;
	s.high = BLOCK_ROWS;
	bpf_loop(MAX_SEARCH, halve_rows, &s, 0);

	struct row *row = &s.block->rows[s.low & (BLOCK_ROWS - 1)];

	return (u32)row->region << 16 | row->rule;
}

/*
 * What the including program adds to a resolved address, for as long as its
 * space holds. Anything but WALK_GOING ends the walk.
 */
static __always_inline int resolved(struct walk *w, struct code *code);

/* Fill code for an address that the cache does not have. */
__noinline int resolve(u64 address, struct walk *w, struct code *code)
{
	struct mapping m = {};
	struct object *object;
	struct region *region;
	u32 row, number;
	long err = 0;
	int end;

	if (!code || !w)
		return WALK_UNMAPPED;
	/* Another thread may hold the lock for a moment. */
	for (int i = 0; i < MAX_TRIES; i++) {
		err = bpf_find_vma(bpf_get_current_task_btf(), address, read_mapping, &m, 0);
		if (err != -EBUSY)
			break;
	}
	if (err == -EBUSY)
		err = find_mapping_unlocked(address, &m);
	if (err == -EBUSY)
		return WALK_BUSY;
	if (err || !m.executable)
		return WALK_UNMAPPED;

	u32 id = object_of(&m);

	object = bpf_map_lookup_elem(&objects, &id);
	if (!object || !(object->flags & OBJECT_READY)) {
		w->missing = id;
		return WALK_NO_ROWS;
	}
	code->space = 0; /* never valid half-written */
	code->address = address;
	code->object = id;
	code->offset = id == OBJECT_ANONYMOUS ? 0 : address - m.start + (m.page_offset << 12);
	row = find_row(object->first_block, object->blocks, code->offset);
	code->rule = row;
	code->region = number = object->first_region + (row >> 16);
	region = bpf_map_lookup_elem(&regions, &number);
	code->flags = region ? region->flags : 0;
	end = resolved(w, code);
	if (end == WALK_GOING)
		code->space = w->space;
	return end;
}

static __always_inline int read_reg(struct saved_reg *reg, u64 *value)
{
	if (reg->undefined)
		return WALK_RULE;
	*value = reg->value;
	if (reg->in_memory && bpf_probe_read_user(value, sizeof(*value), (void *)reg->value))
		return WALK_FAULT;
	return WALK_GOING;
}

static __always_inline void restore_reg(struct saved_reg *reg, s32 offset, u64 base)
{
	if (offset == SAVED_SAME)
		return;
	reg->undefined = offset == SAVED_UNDEFINED;
	reg->in_memory = 1;
	reg->value = base + offset;
}

static __always_inline int leave_signal_frame(struct walk *w)
{
	u64 context = w->sp, saved[2];

	/* struct ucontext: rbp at 120, rbx at 128, rsp at 160, rip at 168 */
	if (bpf_probe_read_user(saved, sizeof(saved), (void *)(context + 160)))
		return WALK_FAULT;
	restore_reg(&w->bp, 120, context);
	restore_reg(&w->bx, 128, context);
	w->sp = saved[0];
	w->ip = saved[1];
	w->exact = 1;
	return WALK_GOING;
}

/* Code without rows (JIT): rbp points at the caller's rbp and return address. */
static __always_inline int leave_by_frame_pointer(struct walk *w)
{
	u64 bp, saved[2];
	int err = read_reg(&w->bp, &bp);

	if (err)
		return err;
	if (!bp)
		return WALK_OUTERMOST;
	if (bp < w->sp || bp & 7)
		return WALK_STUCK;
	if (bpf_probe_read_user(saved, sizeof(saved), (void *)bp))
		return WALK_FAULT;
	w->bp.value = saved[0];
	w->bp.in_memory = 0;
	w->bx.undefined = 1;
	w->sp = bp + 16;
	w->ip = saved[1];
	w->exact = 0;
	return w->ip ? WALK_GOING : WALK_OUTERMOST;
}

/* A function that keeps its return address in a register calls nobody: it is frame 0. */
static __always_inline u64 address_in_register(struct walk *w, struct rule *rule)
{
	if (w->depth != 1)
		return 0;
	return rule->ra_offset == REG_DI ? w->di : rule->ra_offset == REG_DX ? w->dx : 0;
}

static __always_inline int leave_by_rule(struct walk *w, struct rule *rule)
{
	u64 cfa = w->sp, bp = 0;
	int err = WALK_GOING;

	if (rule->reg == REG_BP || rule->flags & (BP_AT_BP | BX_AT_BP))
		err = read_reg(&w->bp, &bp);
	if (err)
		return err;
	if (rule->kind == RULE_PLT) {
		cfa += (w->ip & 15) >= rule->cfa_addend ? 8 : 0;
	} else {
		if (rule->reg == REG_BP)
			cfa = bp;
		else if (rule->reg == REG_BX)
			err = read_reg(&w->bx, &cfa);
		else if (rule->reg != REG_SP)
			err = WALK_RULE;
		if (err)
			return err;
	}
	cfa += rule->cfa_offset;
	if (rule->kind == RULE_DEREF) {
		if (bpf_probe_read_user(&cfa, sizeof(cfa), (void *)cfa))
			return WALK_FAULT;
		cfa += rule->cfa_addend;
	}
	if (cfa < w->sp && !(rule->flags & STACK_SWITCH))
		return WALK_STUCK;
	if (rule->flags & RA_IN_REGISTER) {
		w->ip = address_in_register(w, rule);
		if (!w->ip)
			return WALK_RULE;
	} else if (bpf_probe_read_user(&w->ip, sizeof(w->ip), (void *)(cfa + rule->ra_offset))) {
		return WALK_FAULT;
	}
	restore_reg(&w->bp, rule->bp_offset, rule->flags & BP_AT_BP ? bp : cfa);
	restore_reg(&w->bx, rule->bx_offset, rule->flags & BX_AT_BP ? bp : cfa);
	w->sp = cfa;
	w->exact = !!(rule->flags & INTERRUPTED);
	return w->ip ? WALK_GOING : WALK_OUTERMOST;
}

/* From the current frame to its caller's. */
__noinline int leave(struct walk *w)
{
	struct rule *rule;
	u32 index;

	if (!w)
		return WALK_UNMAPPED;
	index = w->rule;
	rule = bpf_map_lookup_elem(&rules, &index);
	if (!rule || rule->kind == RULE_NONE)
		return leave_by_frame_pointer(w);
	if (rule->kind == RULE_END)
		return WALK_OUTERMOST;
	if (rule->kind == RULE_SIGNAL)
		return leave_signal_frame(w);
	return leave_by_rule(w, rule);
}

/* Record the frame that ip is in. */
__noinline int enter(struct walk *w)
{
	struct code_set *set;
	struct code *code;
	u64 address;
	u32 hash, index, n;

	if (!w)
		return WALK_UNMAPPED;
	address = w->ip - !w->exact; /* a call is charged where it was made */
	hash = address ^ (address >> 12);
	index = (hash / SET_SLOTS) & (CACHE_SETS - 1);
	set = bpf_map_lookup_elem(&code_cache, &index);
	if (!set)
		return WALK_UNMAPPED;
	code = &set->slots[hash & (SET_SLOTS - 1)];
	n = w->depth;
	if (code->address != address || code->space != w->space ||
	    (w->started && !w->exact && !(code->flags & CODE_RETURN))) {
		int err = resolve(address, w, code);

		if (err)
			return err;
	}
	if (n >= MAX_FRAMES)
		return WALK_DEPTH;
	if (code->region != w->region) {
		if (n && code->flags & REGION_BASE) {
			w->base = 1;
		} else {
			if (n)
				w->via = w->frames[(n - 1) & (MAX_FRAMES - 1)];
			w->region = code->region;
			w->compartment = code->compartment;
			w->conduit = code->flags & REGION_CONDUIT;
			w->chain = (w->chain ^ code->region) * 0x100000001b3ULL;
		}
	}
	w->frames[n & (MAX_FRAMES - 1)] = (struct frame){ code->object, code->offset };
	w->depth = n + 1;
	if (!n)
		w->first_rule = code->rule;
	w->rule = code->rule;
	w->started = 1;
	if (w->found || (code->flags & REGION_CONDUIT))
		return WALK_GOING;
	w->found = 1;
	w->origin = (struct frame){ code->object, code->offset };
	return w->stop ? WALK_ORIGIN : WALK_GOING;
}

struct walk_ctx {
	struct walk *walk;
};

static long walk_frame(u32 i, struct walk_ctx *ctx)
{
	struct walk *w = ctx->walk;
	int end = WALK_GOING;

	if (w->started)
		end = leave(w);
	if (!end)
		end = enter(w);
	w->end = end;
	return end != WALK_GOING;
}

/* Walk on from where the walk is, to the origin (stop) or to the end. */
__noinline int walk_on(struct walk *w)
{
	struct walk_ctx ctx = { .walk = w };

	if (!w)
		return WALK_UNMAPPED;
	w->end = WALK_GOING;
	bpf_loop(MAX_FRAMES + 1, walk_frame, &ctx, 0);
	if (w->end == WALK_GOING)
		w->end = WALK_DEPTH;
	return w->end;
}

static __always_inline void walk_start(struct walk *w, struct pt_regs *regs, u32 space, bool stop)
{
	w->ip = regs->ip;
	w->sp = regs->sp;
	w->bp = (struct saved_reg){ .value = regs->bp };
	w->bx = (struct saved_reg){ .value = regs->bx };
	w->dx = regs->dx;
	w->di = regs->di;
	w->space = space;
	w->exact = 0; /* ip is behind the instruction, like a return address */
	w->stop = stop;
	w->found = 0;
	w->end = WALK_GOING;
	w->started = 0;
	w->base = 0;
	w->region = 0;
	w->depth = 0;
	w->missing = 0;
	w->chain = 0xcbf29ce484222325ULL;
	w->via = (struct frame){};
	w->origin = (struct frame){};
}
