"""What every device program does: listen, serve one front end, leave nothing behind."""

import socket
from collections.abc import Callable

from guestforge.core.errors import UserError
from guestforge.vhost.core.backend import Backend
from guestforge.vhost.core.log import Log
from guestforge.vhost.core.loop import IN, Loop
from guestforge.vhost.core.rings import Device
from guestforge.vhost.core.sockets import Inherited, Listener
from guestforge.vhost.core.virtqueue import HOST_FITS

ACCEPT_PAUSE = 0.2  # seconds
EXIT_PROTOCOL = 2  # the front end broke the protocol


class Server:
    """Serves a device at a listening socket until its front end leaves or a signal comes."""

    def __init__(
        self, listener: Listener | Inherited, device: Device, loop: Loop, log: Log, *, unsealed: bool = False
    ) -> None:
        if not HOST_FITS:
            raise UserError("vhost-user devices need a little-endian host: rings are read in place")
        self._device = device
        self._loop = loop
        self._log = log
        self._unsealed = unsealed
        self._backend: Backend | None = None
        self._exit_code = 0
        self._listener = listener
        watch(loop, self._listener, self._accept)

    def run(self) -> int:
        """Serve; return the exit code."""
        self._loop.run()
        self._log.always(f"ends: {self._loop.stop_reason}")
        return self._exit_code

    def close(self) -> None:
        """Drop the front end and stop listening."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None
        self._loop.remove(self._listener.socket.fileno())

    def _accept(self, sock: socket.socket) -> None:
        if self._backend is not None and not self._backend.heard:
            self._backend.serve()  # a visitor may have left again, and we have not yet been told
        if self._backend is not None:
            self._log.say("a second front end was refused")
            sock.close()
            return
        self._backend = Backend(sock, self._device, self._loop, self._log, self._ended, unsealed=self._unsealed)

    def _ended(self, fault: str | None) -> None:
        """End the program with the front end; one that never said a word was only looking whether we are here."""
        assert self._backend is not None
        heard = self._backend.heard
        self._backend.close()
        self._backend = None
        if fault is not None:
            self._exit_code = EXIT_PROTOCOL
            self._loop.stop(f"the front end broke the protocol: {fault}")
        elif heard:
            self._loop.stop("the front end has left")


def watch(loop: Loop, listener: Listener | Inherited, take: Callable[[socket.socket], None]) -> None:
    """Hand every client of a listener on, as a non-blocking socket."""
    fd = listener.socket.fileno()

    def accept(_events: int) -> None:
        try:
            sock, _ = listener.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError:
            # No descriptor or memory is free; the client goes on waiting, and epoll would return at once for ever.
            loop.modify(fd, 0)
            loop.call_later(ACCEPT_PAUSE, lambda: loop.modify(fd, IN))
            return
        sock.setblocking(False)
        take(sock)

    loop.add(fd, IN, accept)
