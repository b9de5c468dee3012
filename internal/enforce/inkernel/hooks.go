package inkernel

import (
	"maps"
	"slices"
	"strings"

	"bulkhead/internal/bpf"
	"bulkhead/internal/syscalls"
)

// hooksOf lists, for each call that LSM hooks can deny, the hooks on its way that come before any effect: all of them are
// needed. Where kernels differ, alternatives are separated by "|": the first that the kernel has is taken. A call that is
// not listed is killed.
var hooksOf = map[string][]string{
	"accept": {"socket_accept"}, "accept4": {"socket_accept"},
	"bind": {"socket_bind"}, "bpf": {"bpf"}, "chmod": {"path_chmod"}, "chown": {"path_chown"}, "chroot": {"path_chroot"},
	"clone": {"task_alloc"}, "clone3": {"task_alloc"}, "connect": {"socket_connect"},
	"creat": {"inode_create", "file_open"}, "execve": {"bprm_check_security"}, "execveat": {"bprm_check_security"},
	"fchmod": {"path_chmod"}, "fchmodat": {"path_chmod"}, "fchmodat2": {"path_chmod"},
	"fchown": {"path_chown"}, "fchownat": {"path_chown"},
	"fork": {"task_alloc"}, "fsetxattr": {"inode_setxattr"}, "ftruncate": {"file_truncate|path_truncate"},
	"getpeername": {"socket_getpeername"}, "getsockname": {"socket_getsockname"}, "getsockopt": {"socket_getsockopt"},
	"ioctl": {"file_ioctl"}, "kill": {"task_kill"}, "lchown": {"path_chown"}, "link": {"inode_link"}, "linkat": {"inode_link"},
	"listen": {"socket_listen"}, "lsetxattr": {"inode_setxattr"}, "mkdir": {"inode_mkdir"}, "mkdirat": {"inode_mkdir"},
	"mknod": {"inode_mknod", "inode_create"}, "mknodat": {"inode_mknod", "inode_create"},
	"mmap": {"mmap_file"}, "mount": {"sb_mount"}, "mprotect": {"file_mprotect"},
	"open": {"inode_create", "file_open"}, "openat": {"inode_create", "file_open"}, "openat2": {"inode_create", "file_open"},
	"pkey_mprotect": {"file_mprotect"}, "pread64": {"file_permission"}, "preadv": {"file_permission"}, "preadv2": {"file_permission"},
	"pwrite64": {"file_permission"}, "pwritev": {"file_permission"}, "pwritev2": {"file_permission"},
	"read": {"file_permission"}, "readv": {"file_permission"},
	"recvfrom": {"socket_recvmsg"}, "recvmsg": {"socket_recvmsg"},
	"removexattr": {"inode_removexattr"}, "lremovexattr": {"inode_removexattr"}, "fremovexattr": {"inode_removexattr"},
	"rename": {"inode_rename"}, "renameat": {"inode_rename"}, "renameat2": {"inode_rename"}, "rmdir": {"inode_rmdir"},
	"sendmsg": {"socket_sendmsg"}, "sendto": {"socket_sendmsg"}, "setsockopt": {"socket_setsockopt"}, "setxattr": {"inode_setxattr"},
	"shutdown": {"socket_shutdown"}, "socket": {"socket_create"}, "socketpair": {"socket_create"},
	"symlink": {"inode_symlink"}, "symlinkat": {"inode_symlink"},
	"truncate": {"path_truncate"}, "tgkill": {"task_kill"}, "tkill": {"task_kill"}, "umount2": {"sb_umount"},
	"unlink": {"inode_unlink"}, "unlinkat": {"inode_unlink", "inode_rmdir"}, "vfork": {"task_alloc"},
	"write": {"file_permission"}, "writev": {"file_permission"},
}

// need returns the hooks that deny the calls for which denied is true, and the calls that they deny. has tells which hooks
// the kernel has.
func need(has func(hook string) bool, denied func(syscalls.ABI, int) bool) (hooks []string, covered func(syscalls.ABI, int) bool) {
	calls := map[string]bool{}
	for call, wanted := range hooksOf {
		if !slices.ContainsFunc(abis[:], func(abi syscalls.ABI) bool {
			nr, known := syscalls.Number(abi, call)
			return known && denied(abi, nr)
		}) {
			continue
		}
		taken, whole := available(has, wanted)
		if whole {
			hooks, calls[call] = append(hooks, taken...), true
		}
	}
	slices.Sort(hooks)
	return slices.Compact(hooks), func(abi syscalls.ABI, nr int) bool {
		name, _ := syscalls.Name(abi, nr)
		return calls[name]
	}
}

// available picks those of the hooks wanted that the kernel has; whole is false if it lacks one.
func available(has func(string) bool, wanted []string) (taken []string, whole bool) {
	for _, alternatives := range wanted {
		names := strings.Split(alternatives, "|")
		i := slices.IndexFunc(names, has)
		if i < 0 {
			return nil, false
		}
		taken = append(taken, names[i])
	}
	return taken, true
}

// stoppedBySignal lists the calls that a fatal signal, sent at their entry, keeps from taking effect where there are no
// hooks: they look for one on their way. All others that are not denied by a hook may have been made when the process dies.
// TestEffects finds out.
var stoppedBySignal = map[string]bool{
	"execve": true, "execveat": true,
}

// Coverage says what becomes of one system call that is denied.
type Coverage struct {
	Call  string
	Hooks []string // that deny it on this kernel; none: it is killed
	// Late: on this kernel a process that is killed for the call may have made it.
	Late bool
}

// Coverages lists the calls that LSM hooks can deny, by name. All other calls are killed by a signal at their entry.
func Coverages() ([]Coverage, error) {
	has := func(string) bool { return false }
	if hasHooks(nil) {
		var err error
		if has, err = bpf.KernelHooks(); err != nil {
			return nil, err
		}
	}
	var all []Coverage
	for _, call := range slices.Sorted(maps.Keys(hooksOf)) {
		hooks, whole := available(has, hooksOf[call])
		all = append(all, Coverage{call, hooks, !whole && !stoppedBySignal[call]})
	}
	return all, nil
}
