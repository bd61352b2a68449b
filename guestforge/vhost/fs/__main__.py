"""The virtio-fs device as a program: `python -m guestforge.vhost.fs`; see docs/storage.md."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from guestforge.arch import ARCHES, lookup
from guestforge.core.errors import GuestforgeError, UserError
from guestforge.core.exposure import acts_as_root, exposed, refuse_exposed
from guestforge.vhost.core.limits import raise_descriptor_limit
from guestforge.vhost.core.log import Log, guard_standard_error
from guestforge.vhost.core.loop import Loop
from guestforge.vhost.core.sandbox import Sandbox, add_options
from guestforge.vhost.core.seccomp import FILES, NO_SOCKETS, Filter
from guestforge.vhost.core.server import Server
from guestforge.vhost.core.sockets import Inherited, Listener, Remover, check_length
from guestforge.vhost.fs.device import TAG_SIZE, FsDevice
from guestforge.vhost.fs.fuse.inodes import MAX_HANDLES, MAX_INODES
from guestforge.vhost.fs.fuse.server import FuseServer
from guestforge.vhost.fs.fuse.space import MIB, Quota
from guestforge.vhost.fs.fuse.waiters import MAX_WAITERS

DESCRIPTORS: Final = 1 << 20  # one for each inode that the guest has looked up; fs.nr_open is that by default
SPARE: Final = 256  # descriptors that are not for files of the guest; an eighth of all is for those that it has open
LOW: Final = 65_536  # files that a guest knows; fewer are worth a word
RESERVE: Final = 1024  # MiB that stay free on the host's file system, of a small one a twentieth


def serve(options: argparse.Namespace) -> int:
    """Serve one guest until its front end leaves; return the exit code."""
    directory: Path = options.shared_dir.absolute()
    if not directory.is_dir():
        raise UserError(f"--shared-dir {directory}: there is no such directory")
    if len(options.tag.encode()) > TAG_SIZE:
        raise UserError(f"--tag {options.tag}: a tag has at most {TAG_SIZE} bytes")
    arch = lookup(options.guest_arch)
    log = Log("vhost-fs")
    descriptors = raise_descriptor_limit(DESCRIPTORS)
    max_inodes = min(options.max_nodes, descriptors - SPARE - descriptors // 8)
    if max_inodes < 1:
        raise UserError(f"{descriptors} open files are too few", hint=f"allow at least {LOW} (ulimit -n)")
    quota = Quota(options.reserve * MIB, max_bytes=_bytes(options.max_bytes), max_files=options.max_files)
    if not options.read_only:
        _look_around(directory, log, allowed=options.allow_exposed)
    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(contextlib.closing(Loop()))
        loop.stop_on_signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # before there is anything to leave behind
        listener = stack.enter_context(contextlib.closing(_listener(options)))
        if isinstance(listener, Listener):
            stack.enter_context(contextlib.closing(Remover(listener)))
        sandbox = Sandbox(directory, log, options.sandbox, read_only=options.read_only)
        calls = Filter(FILES, NO_SOCKETS, options.seccomp)
        sandbox.prepare()
        os.umask(0)  # the guest has applied its own
        files = FuseServer(
            directory, arch, read_only=options.read_only, log=log.say, quota=quota, max_inodes=max_inodes
        )
        stack.enter_context(contextlib.closing(files))
        log.always(
            f"limits: {descriptors} open files, {max_inodes} files that the guest knows, {MAX_HANDLES} that it has "
            f"open, {MAX_WAITERS} requests that wait for locks; {files.limits()}"
        )
        if max_inodes < min(options.max_nodes, LOW):
            log.always(
                f"at most {descriptors} files can be open here (ulimit -n), and each that the guest knows is one: "
                f"above {max_inodes} it gets ENFILE. Raise the hard limit to {DESCRIPTORS}, or start this as root"
            )
        sandbox.enter()
        files.stay_among_descriptors()
        calls.load()
        device = stack.enter_context(contextlib.closing(FsDevice(files, loop, log, tag=options.tag)))
        loop.after_batch = device.flush
        server = Server(listener, device, loop, log, unsealed=options.unsealed_memory)
        return stack.enter_context(contextlib.closing(server)).run()


def _look_around(directory: Path, log: Log, *, allowed: bool) -> None:
    """Raise UserError where the host's users could reach what the guest makes as root; without root, say that."""
    if acts_as_root() and not allowed:
        refuse_exposed(directory, "--allow-exposed")
    elif why := exposed(directory):
        log.always(f"exposed: {why}")


def _listener(options: argparse.Namespace) -> Listener | Inherited:
    if options.fd is not None:
        return Inherited(options.fd)
    check_length(options.socket)
    return Listener(options.socket, backlog=1)


def _number(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def _bytes(text: str | None) -> int | None:
    """Return a number of bytes that may have a unit. Raises UserError."""
    if text is None:
        return None
    unit = text[-1:].upper()
    digits, power = (text[:-1], "KMGT".index(unit) + 1) if unit and unit in "KMGT" else (text, 0)
    if not digits.isdecimal():
        raise UserError(f"--max-bytes {text}: not a number of bytes", hint="such as 500M or 20G")
    return int(digits) << 10 * power


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m guestforge.vhost.fs", description=__doc__)
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--socket", type=Path, help="where the front end (QEMU) connects")
    place.add_argument("--fd", type=int, help="a listening Unix socket instead, as an inherited descriptor")
    parser.add_argument("--shared-dir", required=True, type=Path, help="what the guest sees")
    parser.add_argument("--guest-arch", required=True, help=f"the guest's architecture: {', '.join(ARCHES)}")
    parser.add_argument("--read-only", action="store_true", help="let the guest change nothing")
    parser.add_argument(
        "--allow-exposed", action="store_true", help="serve as root though other users may reach what the guest makes"
    )
    add_options(parser)
    parser.add_argument("--max-nodes", type=_number, default=MAX_INODES, help="files that the guest may know at once")
    parser.add_argument("--reserve", type=_number, default=RESERVE, help="MiB that stay free on the file system")
    parser.add_argument("--max-bytes", help="by how much the file system may become fuller: a number, and K, M, G or T")
    parser.add_argument("--max-files", type=_number, help="how many files more the file system may have")
    parser.add_argument("--tag", default="", help="for front ends that ask the device for its tag; QEMU does not")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and serve."""
    guard_standard_error()
    try:
        return serve(_parser().parse_args(argv))
    except GuestforgeError as error:
        print(error.report(), file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a worker may be blocked in a lock; it ends with us, and nothing is loaded for it any more
