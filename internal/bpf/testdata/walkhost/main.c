/*
 * The walk of the kernel part in user space: reads a recording (struct header and the arrays that it counts, in its
 * order) and walks the stacks of its threads. For each it writes three struct walk: to the end with a cold cache; to
 * the origin with a warm one, as for every call; and that one walked on, as for a call whose chain is wanted.
 */
#include "../../walk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096

struct header {
	u32 mappings, objects, blocks, rules, pages, threads, regions;
};

enum recorded_flags {
	RECORDED_EXEC = 1,
	RECORDED_BUSY = 2, /* its address space is locked */
};

struct recorded_mapping {
	u64 start, end, page_offset;
	u32 object; /* of the file; beyond the recorded objects: a file never seen */
	u32 flags;
};

struct recorded_page {
	u64 address;
	u8 bytes[PAGE];
};

struct recorded_thread {
	struct pt_regs regs;
	u64 segments[6]; /* the rest of struct user_regs_struct */
};

static struct header header;
static struct recorded_mapping *mappings;
static struct recorded_page *pages;
static struct recorded_thread *threads;

/* Every shard has an allocation of its own, so that AddressSanitizer sees its ends. */
static struct block *shard_map[MAX_SHARDS];
static struct rule rule_map[MAX_RULES];
static struct object object_map[MAX_OBJECTS];
static struct region region_map[MAX_REGIONS];
static struct code_set cache_map[CACHE_SETS];
static u32 file_count;
static struct {
	struct file_key key;
	u32 id;
} file_map[MAX_OBJECTS];

static int resolved(struct walk *w, struct code *code)
{
	code->flags |= CODE_RETURN;
	return WALK_GOING;
}

static struct vm_area_struct *vma_of(struct recorded_mapping *m)
{
	static struct super_block device = { .s_dev = 259 };
	static struct inode inode;
	static struct file file = { .f_inode = &inode };
	static struct mm_struct mm;
	static struct vm_area_struct vma;

	inode = (struct inode){ .i_ino = 1000 + m->object, .i_sb = &device, .i_size = PAGE };
	mm.context.vdso = m->object == OBJECT_VDSO ? (void *)m->start : NULL;
	vma = (struct vm_area_struct){
		.vm_start = m->start,
		.vm_end = m->end,
		.vm_mm = &mm,
		.vm_flags = m->flags & RECORDED_EXEC ? VM_EXEC : 0,
		.vm_pgoff = m->page_offset,
		.vm_file = m->object < OBJECT_FIRST_FILE ? NULL : &file,
	};
	return &vma;
}

long find_vma(u64 address, struct vm_area_struct **vma)
{
	for (u32 i = 0; i < header.mappings; i++) {
		struct recorded_mapping *m = &mappings[i];

		if (address < m->start || address >= m->end)
			continue;
		*vma = vma_of(m);
		return m->flags & RECORDED_BUSY ? -EBUSY : 0;
	}
	return -ENOENT;
}

void *bpf_map_lookup_elem(void *map, const void *key)
{
	u32 index = *(const u32 *)key;

	if (map == &rules)
		return index < MAX_RULES ? &rule_map[index] : NULL;
	if (map == &objects)
		return index < MAX_OBJECTS ? &object_map[index] : NULL;
	if (map == &regions)
		return index < MAX_REGIONS ? &region_map[index] : NULL;
	if (map == &code_cache)
		return index < CACHE_SETS ? &cache_map[index] : NULL;
	if (map == &shards)
		return index < MAX_SHARDS ? shard_map[index] : NULL;
	if (map != &files) /* a shard */
		return index < SHARD_BLOCKS ? (struct block *)map + index : NULL;
	for (u32 i = 0; i < file_count; i++)
		if (!memcmp(&file_map[i].key, key, sizeof(struct file_key)))
			return &file_map[i].id;
	return NULL;
}

/* Programs write to the map of files only. */
long bpf_map_update_elem(void *map, const void *key, const void *value, u64 flags)
{
	if (map != &files || flags != BPF_NOEXIST)
		abort();
	if (bpf_map_lookup_elem(map, key))
		return -EEXIST;
	if (file_count == MAX_OBJECTS)
		return -E2BIG;
	memcpy(&file_map[file_count].key, key, sizeof(struct file_key));
	file_map[file_count++].id = *(const u32 *)value;
	return 0;
}

static u8 *byte_at(u64 address)
{
	for (u32 i = 0; i < header.pages; i++)
		if (pages[i].address == (address & ~(PAGE - 1UL)))
			return &pages[i].bytes[address % PAGE];
	return NULL;
}

/* As the kernel does, zeros for what cannot be read. */
long bpf_probe_read_user(void *to, u32 size, const void *from)
{
	for (u32 i = 0; i < size; i++) {
		u8 *byte = byte_at((u64)from + i);

		if (!byte) {
			memset(to, 0, size);
			return -EFAULT;
		}
		((u8 *)to)[i] = *byte;
	}
	return 0;
}

static void *read_array(void *to, u32 count, size_t size)
{
	if (!to)
		to = malloc(count * size);
	if (!to || fread(to, size, count, stdin) != count) {
		fprintf(stderr, "the recording is too short for %u times %zu bytes\n", count, size);
		exit(1);
	}
	return to;
}

static void read_recording(void)
{
	read_array(&header, 1, sizeof(header));
	if (header.objects > MAX_OBJECTS || header.regions > MAX_REGIONS || header.rules > MAX_RULES || header.blocks > MAX_SHARDS * SHARD_BLOCKS)
		abort();
	mappings = read_array(NULL, header.mappings, sizeof(*mappings));
	read_array(object_map, header.objects, sizeof(*object_map));
	read_array(region_map, header.regions, sizeof(*region_map));
	for (u32 i = 0; i < header.blocks; i++) {
		struct block **shard = &shard_map[i / SHARD_BLOCKS];

		if (!*shard)
			*shard = calloc(SHARD_BLOCKS, sizeof(**shard));
		read_array(*shard + i % SHARD_BLOCKS, 1, sizeof(**shard));
	}
	read_array(rule_map, header.rules, sizeof(*rule_map));
	pages = read_array(NULL, header.pages, sizeof(*pages));
	threads = read_array(NULL, header.threads, sizeof(*threads));
	while (next_object < header.objects) { /* number the files in their order */
		struct recorded_mapping file = { .object = next_object };
		struct mapping m = {};

		read_mapping(NULL, vma_of(&file), &m);
		object_of(&m);
	}
}

static void start(struct walk *w, struct pt_regs *regs, bool stop)
{
	memset(w, 0xa5, sizeof(*w)); /* a walk finds what the last one on its CPU left */
	walk_start(w, regs, 1, stop);
	walk_on(w);
}

int main(void)
{
	static struct walk w;

	read_recording();
	for (u32 i = 0; i < header.threads; i++) {
		start(&w, &threads[i].regs, false);
		fwrite(&w, sizeof(w), 1, stdout);
		start(&w, &threads[i].regs, true);
		fwrite(&w, sizeof(w), 1, stdout);
		w.stop = 0;
		if (w.end == WALK_ORIGIN)
			walk_on(&w);
		fwrite(&w, sizeof(w), 1, stdout);
	}
	return 0;
}
