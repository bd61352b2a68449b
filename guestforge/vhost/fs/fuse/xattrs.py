"""Operations on extended attributes. Only files and directories have them here: nothing else can be opened for that.

Their names are mapped: see `xattr_names`.
"""

import errno
import os
import stat
from typing import Final

from guestforge.vhost.fs.fuse.abi import layout
from guestforge.vhost.fs.fuse.inodes import closing, refuse
from guestforge.vhost.fs.fuse.protocol import Op
from guestforge.vhost.fs.fuse.share import Operation, Request, Share
from guestforge.vhost.fs.fuse.xattr_names import guest_name, host_name

KINDS: Final = (stat.S_IFREG, stat.S_IFDIR)


def setxattr(share: Share, request: Request) -> bytes:
    """Set an attribute."""
    share.writable()
    size, flags = request.fields("2I")
    name, end, value = b"".join(request.body)[layout(request.order, "2I").size :].partition(b"\0")
    if not name or not end or len(value) != size:
        raise refuse(errno.EINVAL)
    name = host_name(name)
    if share.inodes[request.nodeid].kind not in KINDS:
        raise refuse(errno.EPERM)  # as Linux says of `user.*`; overlayfs goes on without
    with closing(_opened(share, request)) as descriptor:
        os.setxattr(descriptor, name, value, flags)
    return b""


def getxattr(share: Share, request: Request) -> bytes:
    """Tell an attribute's value, or its size."""
    name = request.names("2I", 1)[0]
    if not name:
        raise refuse(errno.EINVAL)
    name = host_name(name, reading=True)
    with closing(_opened(share, request)) as descriptor:
        return _sized(request, os.getxattr(descriptor, name))


def listxattr(share: Share, request: Request) -> bytes:
    """Tell the names of the attributes, or the size of that."""
    with closing(_opened(share, request)) as descriptor:
        names = [guest_name(os.fsencode(name)) for name in os.listxattr(descriptor)]
    return _sized(request, b"".join(name + b"\0" for name in names if name))


def removexattr(share: Share, request: Request) -> bytes:
    """Remove an attribute."""
    share.writable()
    name = host_name(request.names("", 1)[0])
    with closing(_opened(share, request)) as descriptor:
        os.removexattr(descriptor, name)
    return b""


def _opened(share: Share, request: Request) -> int:
    inode = share.inodes[request.nodeid]
    if inode.kind not in KINDS:
        raise refuse(errno.EOPNOTSUPP)
    return share.reopen(inode, os.O_RDONLY | os.O_NONBLOCK)


def _sized(request: Request, value: bytes) -> bytes:
    size, _ = request.fields("2I")
    if size == 0:
        return request.pack("2I", len(value), 0)
    if len(value) > size:
        raise refuse(errno.ERANGE)
    return value


OPERATIONS: dict[int, Operation] = {
    Op.SETXATTR: setxattr,
    Op.GETXATTR: getxattr,
    Op.LISTXATTR: listxattr,
    Op.REMOVEXATTR: removexattr,
}
