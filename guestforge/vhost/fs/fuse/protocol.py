"""FUSE's numbers and layouts: include/uapi/linux/fuse.h of Linux 6.12. Layouts are in struct's letters."""

from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

MAJOR: Final = 7
MINOR: Final = 39  # what we speak; the guest's kernel takes the smaller of its own and this
LEAST_MINOR: Final = 31

IN_HEADER: Final = "IIQQIIIHH"  # len opcode unique nodeid uid gid pid total_extlen padding
IN_HEADER_SIZE: Final = 40
OUT_HEADER: Final = "IiQ"  # len error unique
OUT_HEADER_SIZE: Final = 16
ROOT_ID: Final = 1

NAME_MAX: Final = 255
MAX_WRITE: Final = 1024 * 1024
MAX_PAGES: Final = 256

ATTR: Final = "6Q10I"  # ino size blocks a-, m-, ctime; a-, m-, ctimensec mode nlink uid gid rdev blksize flags
ENTRY_FIELDS: Final = "4Q2I"  # nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec
ENTRY_OUT: Final = ENTRY_FIELDS + ATTR
ATTR_OUT: Final = "Q2I" + ATTR  # attr_valid attr_valid_nsec dummy
OPEN_OUT: Final = "QIi"  # fh open_flags backing_id
INIT_IN: Final = "4I"  # major minor max_readahead flags
INIT_EXT_IN: Final = "5I"  # and flags2, where INIT_EXT is among the flags
# major minor max_readahead flags max_background congestion_threshold max_write time_gran max_pages map_alignment flags2
INIT_OUT: Final = "4I2H2I2HI28x"
SETATTR_IN: Final = "2I6Q8I"  # see SetattrIn
READ_IN: Final = "2Q2IQ2I"  # fh offset size read_flags lock_owner flags padding
WRITE_IN: Final = READ_IN  # with write_flags in the place of read_flags; flags are the open file's
RELEASE_IN: Final = "Q2IQ"  # fh flags release_flags lock_owner
FLUSH_IN: Final = "Q2IQ"  # fh unused padding lock_owner
FSYNC_IN: Final = "Q2I"  # fh fsync_flags padding
LOCK_IN: Final = "2Q2Q2I2I"  # fh owner; start end type pid; lk_flags padding
LOCK_OUT: Final = "2Q2I"  # start end type pid
STATFS_OUT: Final = "5Q4I24x"  # blocks bfree bavail files ffree bsize namelen frsize padding
FALLOCATE_IN: Final = "3Q2I"  # fh offset length mode padding
LSEEK_IN: Final = "2Q2I"  # fh offset whence padding
COPY_IN: Final = "7Q"  # fh_in off_in nodeid_out fh_out off_out len flags
DIRENT: Final = "2Q2I"  # ino off namelen type; the name follows, padded to 8 bytes
STATX_IN: Final = "2IQ2I"  # getattr_flags reserved fh sx_flags sx_mask
# attr_valid attr_valid_nsec flags spare[2]; mask blksize attributes nlink uid gid mode spare ino size blocks
# attributes_mask; a-, b-, c-, mtime; rdev and dev as major and minor; spare
STATX: Final = "IIQIIIHHQQQQ" + "qIi" * 4 + "4I"
STATX_UID, STATX_GID, STATX_MODE, STATX_INODE = 4, 5, 6, 8  # places among these
STATX_OUT: Final = "Q2I16x" + STATX + "112x"


class SetattrIn(NamedTuple):
    """The fields of SETATTR; which of them count is in `valid`."""

    valid: int
    padding: int
    fh: int
    size: int
    lock_owner: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    unused4: int
    uid: int
    gid: int
    unused5: int


class Op(IntEnum):
    """Operations."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


class Init(IntFlag):
    """What a session may have; what is above 32 bits is in flags2."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    FLOCK_LOCKS = 1 << 10
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    HANDLE_KILLPRIV_V2 = 1 << 28
    INIT_EXT = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36


class SetAttr(IntFlag):
    """Which fields of SETATTR count."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    KILL_SUIDGID = 1 << 11


FOPEN_DIRECT_IO: Final = 1 << 0
OPEN_KILL_SUIDGID: Final = 1 << 0
WRITE_CACHE: Final = 1 << 0
WRITE_KILL_SUIDGID: Final = 1 << 2
LOCK_FLOCK: Final = 1 << 0
FSYNC_DATA: Final = 1 << 0
RELEASE_FLOCK_UNLOCK: Final = 1 << 1
