"""The part of QEMU's machine protocol that we speak, in the event loop of a watcher's thread."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

from qemu.qmp import QMPClient, QMPError, Runstate

COMMAND_TIMEOUT: Final = 10.0  # seconds; QEMU answers within milliseconds, or hangs
DRAIN_TIMEOUT: Final = 1.0  # seconds for what QEMU said before it left
DRAIN_STEP: Final = 0.005

OnEvent = Callable[[str, Mapping[str, Any]], None]

# what the package says of a lost connection is no news: QEMU's exit is, and that we see ourselves
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class Qmp:
    """A connection to a QEMU. All of it belongs to one event loop."""

    def __init__(self, on_event: OnEvent) -> None:
        self._client = QMPClient("guestforge")
        self._on_event = on_event
        self._listener: asyncio.Task[None] | None = None

    async def open(self, sock: socket.socket) -> str:
        """Negotiate on a connected socket; return QEMU's version. Raises QMPError."""
        self._listener = asyncio.create_task(self._listen())
        await self._client.connect(sock)
        assert self._client.greeting is not None
        return _version(self._client.greeting.QMP.version)

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a command and return its answer. Raises QMPError, also when QEMU is gone, and TimeoutError."""
        async with asyncio.timeout(COMMAND_TIMEOUT):
            return await self._client.execute(command, dict(arguments) if arguments else None)

    async def drain(self) -> None:
        """Once QEMU has ended: take in what it said before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_TIMEOUT):
                while self._client.runstate == Runstate.RUNNING or not self._client.events.empty():
                    await asyncio.sleep(DRAIN_STEP)

    async def close(self) -> None:
        """Leave, whatever state the connection is in."""
        if self._listener:
            self._listener.cancel()
        with contextlib.suppress(QMPError, OSError, EOFError):  # QEMU has left first
            await self._client.disconnect()

    async def _listen(self) -> None:
        async for event in self._client.events:
            data = event.get("data", {})
            self._on_event(str(event["event"]), data if isinstance(data, Mapping) else {})


def _version(version: Mapping[str, Any]) -> str:
    qemu = version["qemu"]
    number = f"{qemu['major']}.{qemu['minor']}.{qemu['micro']}"
    package = str(version.get("package", "")).strip()
    return f"{number} ({package})" if package else number
