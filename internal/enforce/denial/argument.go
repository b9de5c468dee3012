package denial

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// shownString is how many bytes of a string argument are shown.
const shownString = 120

// Strings reads a string of the process that made a call; whole is false where it goes on after limit bytes.
type Strings func(address uint64, limit int) (s string, whole bool, err error)

// signatures name the kinds of the arguments of the calls that policies are about. Those of all other calls are shown as
// numbers.
var signatures = map[string]string{
	"accept": "fd pointer pointer", "accept4": "fd pointer pointer number", "access": "path number",
	"bind": "fd address number", "bpf": "number pointer number", "chdir": "path", "chmod": "path mode",
	"chown": "path id id", "chroot": "path", "clone": "hex", "clone3": "pointer number", "close": "fd",
	"connect": "fd address number", "creat": "path mode", "dup": "fd", "dup2": "fd fd", "dup3": "fd fd number",
	"execve": "path pointer pointer", "execveat": "fd path pointer pointer number",
	"faccessat": "fd path number", "faccessat2": "fd path number number", "fchmod": "fd mode", "fchmodat": "fd path mode",
	"fchown": "fd id id", "fchownat": "fd path id id number", "fcntl": "fd number hex", "flock": "fd number", "fork": "", "fstat": "fd pointer",
	"fsync": "fd", "ftruncate": "fd number", "getcwd": "pointer number", "getdents64": "fd pointer number",
	"getpid": "", "getppid": "", "gettid": "", "getuid": "", "geteuid": "", "getgid": "", "getegid": "",
	"getsockname": "fd pointer pointer", "getsockopt": "fd number number pointer pointer", "inotify_add_watch": "fd path hex",
	"io_uring_setup": "number pointer", "io_uring_enter": "fd number number hex", "ioctl": "fd hex pointer",
	"kill": "id signal", "lchown": "path id id", "link": "path path", "linkat": "fd path fd path number",
	"listen": "fd number", "lseek": "fd number number", "lstat": "path pointer", "memfd_create": "path hex",
	"mkdir": "path mode", "mkdirat": "fd path mode", "mknod": "path mode", "mmap": "pointer number prot hex fd number",
	"mount": "path path path hex pointer", "mprotect": "pointer number prot", "mremap": "pointer number number hex pointer",
	"munmap": "pointer number", "newfstatat": "fd path pointer number", "open": "path open mode", "openat": "fd path open mode",
	"openat2": "fd path pointer number", "pidfd_open": "id number", "pipe": "pointer", "pipe2": "pointer number",
	"pkey_mprotect": "pointer number prot number", "prctl": "number hex hex hex hex", "pread64": "fd pointer number number",
	"process_vm_readv": "id pointer number pointer number hex", "process_vm_writev": "id pointer number pointer number hex",
	"ptrace": "number id pointer pointer", "pwrite64": "fd pointer number number", "read": "fd pointer number",
	"readlink": "path pointer number", "readlinkat": "fd path pointer number", "readv": "fd pointer number",
	"recvfrom": "fd pointer number hex pointer pointer", "recvmsg": "fd pointer hex", "rename": "path path",
	"renameat": "fd path fd path", "renameat2": "fd path fd path hex", "rmdir": "path", "sendfile": "fd fd pointer number",
	"sendmsg": "fd pointer hex", "sendto": "fd pointer number hex address number", "setgid": "id", "setsid": "",
	"setsockopt": "fd number number pointer number", "setuid": "id", "shutdown": "fd number", "socket": "family hex number",
	"socketpair": "family hex number pointer", "stat": "path pointer", "statfs": "path pointer",
	"statx": "fd path hex hex pointer", "symlink": "path path", "symlinkat": "path fd path", "tgkill": "id id signal",
	"tkill": "id signal", "truncate": "path number", "umask": "mode", "umount2": "path hex", "uname": "pointer",
	"unlink": "path", "unlinkat": "fd path hex", "unshare": "hex", "utimensat": "fd path pointer number", "vfork": "",
	"write": "fd pointer number", "writev": "fd pointer number", "seccomp": "number hex pointer", "sendmmsg": "fd pointer number hex",
}

// kinds show one argument.
var kinds = map[string]func(value uint64, read Strings) string{
	"fd":      descriptor,
	"id":      func(v uint64, _ Strings) string { return strconv.Itoa(int(int32(v))) },
	"number":  func(v uint64, _ Strings) string { return strconv.FormatInt(int64(v), 10) },
	"hex":     func(v uint64, _ Strings) string { return fmt.Sprintf("%#x", v) },
	"mode":    func(v uint64, _ Strings) string { return fmt.Sprintf("%#o", uint32(v)) },
	"pointer": pointer,
	"address": pointer,
	"path":    path,
	"open":    func(v uint64, _ Strings) string { return flags(v, openFlags, openAccess[v&unix.O_ACCMODE]) },
	"prot":    func(v uint64, _ Strings) string { return flags(v, protFlags, "") },
	"signal":  func(v uint64, _ Strings) string { return signal(v) },
	"family":  func(v uint64, _ Strings) string { return named(v, families) },
}

// Arguments shows the arguments of a call for people. What is behind pointers is read for that alone: it may be another
// thing by the time that the kernel reads it, and decides nothing.
func Arguments(name string, args [6]uint64, read Strings) []string {
	signature, known := signatures[name]
	if !known {
		signature = "hex hex hex hex hex hex"
	}
	shown := []string{}
	for i, kind := range strings.Fields(signature) {
		shown = append(shown, kinds[kind](args[i], read))
	}
	return shown
}

func descriptor(v uint64, _ Strings) string {
	if int32(v) == unix.AT_FDCWD {
		return "AT_FDCWD"
	}
	return strconv.Itoa(int(int32(v)))
}

func pointer(v uint64, _ Strings) string {
	if v == 0 {
		return "NULL"
	}
	return fmt.Sprintf("%#x", v)
}

func path(v uint64, read Strings) string {
	if v == 0 || read == nil {
		return pointer(v, nil)
	}
	s, whole, err := read(v, shownString)
	switch {
	case err != nil:
		return pointer(v, nil)
	case !whole:
		return strconv.Quote(s) + "…"
	}
	return strconv.Quote(s)
}

func signal(v uint64) string {
	if name := unix.SignalName(unix.Signal(v)); name != "" {
		return name
	}
	return strconv.FormatUint(v, 10)
}

type flag struct {
	bits uint64
	name string
}

var openAccess = map[uint64]string{unix.O_RDONLY: "O_RDONLY", unix.O_WRONLY: "O_WRONLY", unix.O_RDWR: "O_RDWR"}

// openFlags has O_SYNC before O_DSYNC and O_TMPFILE before O_DIRECTORY, which are parts of them.
var openFlags = []flag{
	{unix.O_CREAT, "O_CREAT"}, {unix.O_EXCL, "O_EXCL"}, {unix.O_TRUNC, "O_TRUNC"}, {unix.O_APPEND, "O_APPEND"},
	{unix.O_NONBLOCK, "O_NONBLOCK"}, {unix.O_SYNC, "O_SYNC"}, {unix.O_DSYNC, "O_DSYNC"}, {unix.O_TMPFILE, "O_TMPFILE"},
	{unix.O_DIRECTORY, "O_DIRECTORY"}, {unix.O_NOFOLLOW, "O_NOFOLLOW"}, {unix.O_CLOEXEC, "O_CLOEXEC"},
	{unix.O_NOCTTY, "O_NOCTTY"}, {unix.O_PATH, "O_PATH"},
}

var protFlags = []flag{{unix.PROT_READ, "PROT_READ"}, {unix.PROT_WRITE, "PROT_WRITE"}, {unix.PROT_EXEC, "PROT_EXEC"}}

var families = []flag{
	{unix.AF_UNIX, "AF_UNIX"}, {unix.AF_INET, "AF_INET"}, {unix.AF_INET6, "AF_INET6"}, {unix.AF_NETLINK, "AF_NETLINK"},
	{unix.AF_PACKET, "AF_PACKET"}, {unix.AF_ALG, "AF_ALG"}, {unix.AF_VSOCK, "AF_VSOCK"},
}

func flags(v uint64, known []flag, first string) string {
	var names []string
	if first != "" {
		names, v = append(names, first), v&^unix.O_ACCMODE
	}
	for _, f := range known {
		if v&f.bits == f.bits {
			names, v = append(names, f.name), v&^f.bits
		}
	}
	if v != 0 || len(names) == 0 {
		names = append(names, fmt.Sprintf("%#x", v))
	}
	return strings.Join(names, "|")
}

func named(v uint64, known []flag) string {
	for _, f := range known {
		if f.bits == v {
			return f.name
		}
	}
	return strconv.FormatUint(v, 10)
}
