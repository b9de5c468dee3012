/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The few kernel structures that Bulkhead reads. Every access is relocated
 * against the running kernel's BTF (CO-RE), so only the names and the types of
 * the fields matter here, never their order or offsets.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;

/* Names as in the kernel's headers; not exported to user space. */
#define VM_EXEC 0x4UL
#define TS_COMPAT 0x2
#define PF_EXITING 0x4
#define X32_SYSCALL_BIT 0x40000000

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct super_block {
	__u32 s_dev;
};

struct inode {
	unsigned long i_ino;
	struct super_block *i_sb;
	long long i_size;
	u32 i_generation;
};

/* When a file's content was last changed. The field has moved twice. */
struct inode___mtime_sec { /* from 6.11 */
	long long i_mtime_sec;
	u32 i_mtime_nsec;
};

struct timespec64 {
	long long tv_sec;
	long tv_nsec;
};

struct inode___private_mtime { /* from 6.7 */
	struct timespec64 __i_mtime;
};

struct inode___mtime {
	struct timespec64 i_mtime;
};

struct file {
	struct inode *f_inode;
};

typedef struct {
	void *vdso;
} mm_context_t;

/* Where an address space keeps its mappings, from 6.1. A node has 256 bytes. */
struct maple_tree {
	void *ma_root;
};

struct mm_struct___maple {
	struct maple_tree mm_mt;
};

struct mm_struct {
	unsigned long start_code;
	unsigned long exec_vm;
	mm_context_t context;
};

struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	struct mm_struct *vm_mm;
	unsigned long vm_flags;
	unsigned long vm_pgoff;
	struct file *vm_file;
};

struct pid_namespace;

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct upid numbers[1];
};

struct thread_info {
	u32 status;
};

struct bpf_local_storage;

struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	struct mm_struct *mm;
	int pid;
	int tgid;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	struct bpf_local_storage *bpf_storage;
};

struct linux_binprm;

struct pt_regs {
	unsigned long r15;
	unsigned long r14;
	unsigned long r13;
	unsigned long r12;
	unsigned long bp;
	unsigned long bx;
	unsigned long r11;
	unsigned long r10;
	unsigned long r9;
	unsigned long r8;
	unsigned long ax;
	unsigned long cx;
	unsigned long dx;
	unsigned long si;
	unsigned long di;
	unsigned long orig_ax;
	unsigned long ip;
	unsigned long cs;
	unsigned long flags;
	unsigned long sp;
	unsigned long ss;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

#pragma clang attribute pop
