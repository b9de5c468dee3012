/* What walk.h asks of BPF, for a process: the map macros and the helpers, which main.c serves from a recording. */
#pragma once

#include <errno.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <string.h>

#define SEC(name)
#define __uint(name, value) int (*name)[value]
#define __type(name, value) typeof(value) *name
#define __array(name, value) typeof(value) *name[]
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))

/* Callbacks are called by name and not through a pointer, so that the compiler checks their types. */
#define bpf_loop(n, callback, context, flags)                                           \
	({                                                                              \
		for (u32 i_ = 0; i_ < (n); i_++)                                        \
			if (callback(i_, context))                                      \
				break;                                                  \
	})

#define bpf_find_vma(task, address, callback, context, flags)                           \
	({                                                                              \
		struct vm_area_struct *vma_;                                            \
		long err_ = find_vma(address, &vma_);                                   \
		if (!err_)                                                              \
			callback(task, vma_, context);                                  \
		err_;                                                                   \
	})

/* Without an address space: the tree of mappings is not recorded. */
#define bpf_get_current_task_btf()                                                      \
	({                                                                              \
		static struct task_struct current_;                                     \
		&current_;                                                              \
	})

long find_vma(u64 address, struct vm_area_struct **vma);
void *bpf_map_lookup_elem(void *map, const void *key);
long bpf_map_update_elem(void *map, const void *key, const void *value, u64 flags);
long bpf_probe_read_user(void *to, u32 size, const void *from);
#define bpf_probe_read_kernel(to, size, from) memcpy(to, from, size)
