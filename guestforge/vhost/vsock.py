"""The vhost-user vsock device as a program: `python -m guestforge.vhost.vsock`; see docs/vsock.md."""

import argparse
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from guestforge.errors import GuestforgeError, UserError
from guestforge.vhost.device import MAX_CONNECTIONS, MAX_HANDSHAKES, VsockDevice
from guestforge.vhost.limits import raise_descriptor_limit
from guestforge.vhost.log import Log, guard_standard_error
from guestforge.vhost.loop import Loop
from guestforge.vhost.packets import FIRST_GUEST_CID, LAST_GUEST_CID
from guestforge.vhost.server import Server, watch
from guestforge.vhost.sockets import Listener, check_length

DESCRIPTORS = MAX_CONNECTIONS + MAX_HANDSHAKES + 64  # sockets; memory, rings and ourselves
PORT_SUFFIX = len("_4294967295")


def serve(socket_path: Path, uds_path: Path, guest_cid: int) -> int:
    """Serve one guest until its front end leaves; return the exit code."""
    if not FIRST_GUEST_CID <= guest_cid <= LAST_GUEST_CID:
        raise UserError(f"guest CID {guest_cid} is not in {FIRST_GUEST_CID} to {LAST_GUEST_CID}")
    check_length(socket_path)
    check_length(uds_path, PORT_SUFFIX)
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
        hybrid = stack.enter_context(contextlib.closing(Listener(uds_path, MAX_HANDSHAKES)))
        device = stack.enter_context(contextlib.closing(VsockDevice(guest_cid, uds_path, loop, log)))
        loop.after_batch = device.flush
        watch(loop, hybrid, device.client)
        front = stack.enter_context(contextlib.closing(Listener(socket_path, backlog=1)))
        return stack.enter_context(contextlib.closing(Server(front, device, loop, log))).run()


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and serve."""
    guard_standard_error()
    parser = argparse.ArgumentParser(prog="python -m guestforge.vhost.vsock", description=__doc__)
    parser.add_argument("--socket", required=True, type=Path, help="where the front end (QEMU) connects")
    parser.add_argument("--uds-path", required=True, type=Path, help="where host programs connect")
    parser.add_argument("--guest-cid", required=True, type=int, help="the guest's context id, 3 or more")
    options = parser.parse_args(argv)
    try:
        return serve(options.socket, options.uds_path, options.guest_cid)
    except GuestforgeError as error:
        print(error.report(), file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
