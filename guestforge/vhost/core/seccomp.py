"""Which system calls a device's process may make once it hears a guest: a list, and no others.

A call that is not on the list fails with EPERM; one that only somebody would make who has taken the process over ends
it. Numbers and argument registers of the machine are libseccomp's business.
"""

import ctypes
import errno
import socket
import termios
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from guestforge.core.errors import UserError

LIBRARY: Final = "libseccomp.so.2"
Mode = Literal["on", "log"]
MODES: Final[tuple[Mode, ...]] = ("on", "log")

# include/seccomp.h of libseccomp 2.5
ALLOW: Final = 0x7FFF0000
LOG: Final = 0x7FFC0000
KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000
_ATTRIBUTE_BAD_ARCH: Final = 2
_ATTRIBUTE_OPTIMIZE: Final = 8
_BINARY_TREE: Final = 2
_MASKED_EQUAL: Final = 7
_UNKNOWN: Final = -1

CLONE_THREAD: Final = 0x00010000  # include/uapi/linux/sched.h


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What the loop, Python and the C library's threads and allocator need, in both devices.
COMMON: Final = _names(
    """
    read readv write writev pread64 close dup fcntl fstat newfstatat lseek
    recvmsg recvfrom sendmsg sendto accept accept4 shutdown getsockname getpeername getsockopt setsockopt
    epoll_wait epoll_pwait epoll_ctl poll ppoll select pselect6
    mmap munmap mprotect mremap madvise brk
    futex set_robust_list rseq gettid getpid sched_yield sched_getaffinity membarrier
    rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time getrandom
    getuid geteuid getgid getegid exit exit_group wait4 waitid
    """
)
# What a file server does to files, each by descriptor, or by descriptor and name.
FILES: Final = COMMON | _names(
    """
    open openat statx stat lstat readlink readlinkat access faccessat faccessat2 name_to_handle_at
    mkdirat mknodat unlinkat symlinkat linkat renameat renameat2 umask
    fchmod fchmodat fchmodat2 fchown fchownat utimensat ftruncate fallocate
    preadv preadv2 pwrite64 pwritev pwritev2 copy_file_range fsync fdatasync syncfs
    getdents64 fstatfs statfs flock
    getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
    setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr
    """
)
# What the vsock device does besides: it connects Unix sockets, and opens nothing.
SOCKETS: Final = COMMON | {"connect"}
UNIX_SOCKETS: Final = {"socket": (0, 0xFFFFFFFF, socket.AF_UNIX)}
NO_SOCKETS: Final[dict[str, tuple[int, int, int]]] = {}

# Calls that no mistake of ours leads to.
DEADLY: Final = _names(
    """
    execve execveat fork vfork ptrace process_vm_readv process_vm_writev pidfd_open pidfd_getfd process_madvise
    mount umount2 pivot_root chroot setns unshare open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
    open_by_handle_at bpf perf_event_open userfaultfd io_uring_setup kexec_load kexec_file_load reboot swapon
    init_module finit_module delete_module keyctl add_key request_key acct quotactl iopl ioperm modify_ldt
    """
)
# The only ioctls: what Python's `set_blocking` and `set_inheritable` make, and how much a socket has.
IOCTLS: Final = (termios.FIONBIO, termios.FIOCLEX, termios.FIONCLEX, termios.FIONREAD)


class _Comparison(ctypes.Structure):
    """Is struct scmp_arg_cmp: whether argument & `a` is `b`."""

    _fields_ = (("argument", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class Filter:
    """A filter of system calls, made while libraries can still be loaded; `load` puts it into force for ever.

    `restricted` gives calls that are allowed where one argument has a value: (number of the argument, mask, value).
    With `log` calls that are on no list are made all the same, and the kernel's log names them.
    """

    def __init__(
        self, allowed: Iterable[str], restricted: Mapping[str, tuple[int, int, int]], mode: Mode = "on"
    ) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError:
            raise UserError(f"no filter of system calls: there is no {LIBRARY}", hint="install libseccomp2") from None
        for name in ("seccomp_init", "seccomp_load"):
            getattr(self._library, name).argtypes = (ctypes.c_uint32,) if name == "seccomp_init" else (ctypes.c_void_p,)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(LOG if mode == "log" else _ERRNO | errno.EPERM))
        self._call("seccomp_attr_set", _ATTRIBUTE_BAD_ARCH, ctypes.c_uint32(KILL_PROCESS))
        self._call("seccomp_attr_set", _ATTRIBUTE_OPTIMIZE, ctypes.c_uint32(_BINARY_TREE))
        for name in sorted(allowed):
            self._rule(name, ALLOW)
        for name in sorted(DEADLY):
            self._rule(name, KILL_PROCESS)
        for name, condition in restricted.items():
            self._rule(name, ALLOW, condition)
        for number in IOCTLS:
            self._rule("ioctl", ALLOW, (1, 0xFFFFFFFF, number))
        self._rule("clone", ALLOW, (0, CLONE_THREAD, CLONE_THREAD))  # a thread, not a process
        self._rule("clone3", _ERRNO | errno.ENOSYS)  # its flags can't be looked at; the C library takes clone then

    def load(self) -> None:
        """Put the filter into force for this thread and those that it starts. Raises UserError."""
        self._call("seccomp_load")

    def _rule(self, name: str, action: int, condition: tuple[int, int, int] | None = None) -> None:
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN:  # newer than the library: EPERM, as what is not on the list
            return
        comparisons = (_Comparison * 1)()
        if condition is not None:
            argument, mask, value = condition
            comparisons[0] = _Comparison(argument, _MASKED_EQUAL, mask, value)
        count = ctypes.c_uint(condition is not None)
        self._call("seccomp_rule_add_array", ctypes.c_uint32(action), number, count, comparisons)

    def _call(self, name: str, *arguments: object) -> None:
        result = getattr(self._library, name)(self._context, *arguments)
        if result < 0:
            reason = errno.errorcode.get(-result, str(-result))
            raise UserError(
                f"no filter of system calls: {name}: {reason}", hint="the kernel needs CONFIG_SECCOMP_FILTER"
            )
