"""The vhost-user vsock device as a program: `python -m guestforge.vhost.vsock`; see docs/vsock.md."""

import argparse
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from guestforge.core.errors import GuestforgeError, UserError
from guestforge.vhost.core.limits import raise_descriptor_limit
from guestforge.vhost.core.log import Log, guard_standard_error
from guestforge.vhost.core.loop import Loop
from guestforge.vhost.core.sandbox import Sandbox, add_options
from guestforge.vhost.core.seccomp import SOCKETS, UNIX_SOCKETS, Filter
from guestforge.vhost.core.server import Server, watch
from guestforge.vhost.core.sockets import Listener, Remover, check_length
from guestforge.vhost.vsock.device import MAX_CONNECTIONS, MAX_HANDSHAKES, VsockDevice
from guestforge.vhost.vsock.packets import FIRST_GUEST_CID, LAST_GUEST_CID

DESCRIPTORS = MAX_CONNECTIONS + MAX_HANDSHAKES + 64  # sockets; memory, rings and ourselves
PORT_SUFFIX = len("_4294967295")


def serve(options: argparse.Namespace) -> int:
    """Serve one guest until its front end leaves; return the exit code."""
    guest_cid: int = options.guest_cid
    if not FIRST_GUEST_CID <= guest_cid <= LAST_GUEST_CID:
        raise UserError(f"guest CID {guest_cid} is not in {FIRST_GUEST_CID} to {LAST_GUEST_CID}")
    uds_path: Path = options.uds_path.absolute()
    check_length(options.socket)
    check_length(options.uds_path, PORT_SUFFIX)
    log = Log("vhost-vsock")
    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(contextlib.closing(Loop()))
        loop.stop_on_signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # before there is anything to leave behind
        descriptors = raise_descriptor_limit(DESCRIPTORS)
        log.always(f"limits: {descriptors} open files, {MAX_CONNECTIONS} connections, {MAX_HANDSHAKES} handshakes")
        if descriptors < DESCRIPTORS:
            log.always(
                f"at most {descriptors} files can be open here (ulimit -n): with about {max(0, descriptors - 128)} "
                f"connections new ones are refused. Raise the hard limit to {DESCRIPTORS}"
            )
        hybrid = stack.enter_context(contextlib.closing(Listener(options.uds_path, MAX_HANDSHAKES)))
        front = stack.enter_context(contextlib.closing(Listener(options.socket, backlog=1)))
        stack.enter_context(contextlib.closing(Remover(hybrid, front)))
        # All that it names is sockets in one directory, which is its root from here on; nothing is written there.
        sandbox = Sandbox(uds_path.parent, log, options.sandbox, read_only=True, kept=0)
        calls = Filter(SOCKETS, UNIX_SOCKETS, options.seccomp)
        sandbox.prepare()
        place = Path("/") / uds_path.name if options.sandbox == "namespace" else uds_path
        device = stack.enter_context(contextlib.closing(VsockDevice(guest_cid, place, loop, log)))
        loop.after_batch = device.flush
        watch(loop, hybrid, device.client)
        sandbox.enter()
        calls.load()
        server = Server(front, device, loop, log, unsealed=options.unsealed_memory)
        return stack.enter_context(contextlib.closing(server)).run()


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and serve."""
    guard_standard_error()
    parser = argparse.ArgumentParser(prog="python -m guestforge.vhost.vsock", description=__doc__)
    parser.add_argument("--socket", required=True, type=Path, help="where the front end (QEMU) connects")
    parser.add_argument("--uds-path", required=True, type=Path, help="where host programs connect")
    parser.add_argument("--guest-cid", required=True, type=int, help="the guest's context id, 3 or more")
    add_options(parser)
    options = parser.parse_args(argv)
    try:
        return serve(options)
    except GuestforgeError as error:
        print(error.report(), file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
