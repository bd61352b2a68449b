"""The thread that watches a running machine: QEMU's protocol, console, output and exit, and the programs behind it."""

import asyncio
import concurrent.futures
import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from qemu.qmp import QMPError

from guestforge.core.run import Process
from guestforge.vmm.console import clean
from guestforge.vmm.errors import Kind
from guestforge.vmm.pipes import ConsolePipes
from guestforge.vmm.qmp import COMMAND_TIMEOUT, Qmp
from guestforge.vmm.state import State, how_it_ended

READ_SIZE: Final = 64 * 1024
TYPE_STEP: Final = 0.2  # seconds until somebody who types is told that the machine has ended
KEPT_OUTPUT: Final = 16 * 1024  # bytes of what a program wrote that an error may show
KEPT_LINES: Final = 60  # KVM's account of an internal error, with all registers, has about 50
LAST_WORDS: Final = 1.0  # seconds for output that is under way when QEMU has ended
# A program behind a device ends well when QEMU does. Only if QEMU is still there a moment later is it the program's own
# end; one that ends badly has hardly been left by QEMU.
GRACE_AFTER_GOOD_END: Final = 0.25  # seconds
GRACE_AFTER_BAD_END: Final = 0.03


@dataclass(frozen=True, slots=True)
class Watched:
    """A program of the machine: which it is, what its end means, its name for people, and the last of what it wrote."""

    role: str  # `qemu`, `vsock`, or `share TAG`
    end: Kind
    name: str
    process: Process
    output: bytearray = field(default_factory=bytearray)

    def last_words(self) -> str:
        """Return the last of what it wrote, safe on a terminal."""
        return "\n".join(clean(line) for line in bytes(self.output).splitlines()[-KEPT_LINES:])


class Watcher:
    """Watches from `start` to `stop`. QEMU connects to `qmp`, a listening socket, and opens the pipes of `console`.

    `on_console` gets the console's bytes as they came, in the watcher's thread, and must return at once.
    """

    def __init__(
        self,
        state: State,
        qemu: Watched,
        helpers: tuple[Watched, ...],
        qmp: socket.socket,
        console: ConsolePipes,
        *,
        on_console: Callable[[bytes], None] | None = None,
    ) -> None:
        self._state = state
        self._qemu = qemu
        self._helpers = helpers
        self._qmp_listener = qmp
        self._console = console
        self._on_console = on_console
        self._qmp = Qmp(self._event)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._run, name="guestforge-watcher", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()
        self._running.wait()

    def stop(self) -> None:
        """End the thread."""
        if self._loop and self._stop and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a QMP command; raises QMPError, or TimeoutError when QEMU does not answer."""
        assert self._loop is not None
        future = asyncio.run_coroutine_threadsafe(self._qmp.execute(command, arguments), self._loop)
        try:
            return future.result(COMMAND_TIMEOUT + 1)
        except concurrent.futures.CancelledError as e:
            raise TimeoutError(f"QEMU did not answer {command}") from e

    def type(self, data: bytes) -> None:
        """Send bytes to the console; returns when they are on their way, or when the machine is at its end."""
        while data and not (self._state.ended or self._state.stopping):
            if select.select([], [self._console.input], [], TYPE_STEP)[1]:
                with contextlib.suppress(BlockingIOError):
                    data = data[os.write(self._console.input, data) :]

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        finally:
            self._running.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        tasks = [self._task(work) for work in (self._watch_qemu(), *map(self._watch_helper, self._helpers))]
        self._running.set()
        await self._stop.wait()
        await self._qmp.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a part of the watch. Nobody must wait for what a part that has failed would have noticed."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self._state.fail("watcher-failed", f"watching the machine failed: {error!r}", str)

    async def _watch_qemu(self) -> None:
        output = self._task(_collect(self._qemu))
        console = self._task(self._read_console())
        protocol = self._task(self._open_qmp())
        try:
            returncode = await _exit_of(self._qemu.process)
            protocol.cancel()
            await self._qmp.drain()
            await asyncio.wait((output, console), timeout=LAST_WORDS)
            self._state.has_ended(returncode)
        finally:
            for task in (output, console, protocol):
                task.cancel()

    async def _watch_helper(self, helper: Watched) -> None:
        output = self._task(_collect(helper))
        try:
            returncode = await _exit_of(helper.process)
            await asyncio.wait((output,), timeout=LAST_WORDS)
            await asyncio.sleep(GRACE_AFTER_BAD_END if returncode else GRACE_AFTER_GOOD_END)
            if self._qemu.process.poll() is None and self._state.shutdown_reason == "unknown":
                self._state.fail(helper.end, f"{helper.name} died with {how_it_ended(returncode)}", helper.last_words)
        finally:
            output.cancel()

    async def _read_console(self) -> None:
        loop, output = asyncio.get_running_loop(), self._console.output
        readable = asyncio.Event()
        loop.add_reader(output, readable.set)  # not before QEMU has opened its end: without one there is no end of file
        try:
            while await readable.wait():
                readable.clear()
                with contextlib.suppress(BlockingIOError):
                    if not (data := os.read(output, READ_SIZE)):
                        return
                    self._state.feed(data)
                    if self._on_console:
                        self._on_console(data)
        finally:
            loop.remove_reader(output)

    async def _open_qmp(self) -> None:
        connection, _ = await asyncio.get_running_loop().sock_accept(self._qmp_listener)
        try:
            self._state.answers(await self._qmp.open(connection))
        except QMPError as e:
            self._state.fail("qemu-failed", f"QEMU's machine protocol failed: {e}", self._qemu.last_words)

    def _event(self, name: str, data: Mapping[str, Any]) -> None:
        if name == "SHUTDOWN":
            self._state.shutdown_reason = str(data.get("reason", "unknown"))
        elif name == "GUEST_PANICKED":
            self._state.fail("panic", "the guest told its machine that it panicked", partial(self._state.tail, 20))
        elif name == "STOP" and not self._state.stopping:
            self._asking = self._task(self._stopped())  # a task that nobody holds may be dropped

    async def _stopped(self) -> None:
        """QEMU has stopped the guest's processors: ask why."""
        with contextlib.suppress(QMPError, TimeoutError):
            status = await self._qmp.execute("query-status")
            why = str(status.get("status")) if isinstance(status, dict) else "unknown"
            if why not in ("running", "shutdown", "paused"):
                self._state.fail("qemu-stopped", f"QEMU stopped the guest: {why}", self._qemu.last_words)


async def _exit_of(process: Process) -> int:
    """Wait for a program's exit; return its code."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ProcessLookupError):  # somebody has waited for it already
        descriptor = os.pidfd_open(process.pid)
        try:
            exited = asyncio.Event()
            loop.add_reader(descriptor, exited.set)
            await exited.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
    return process.finish()


async def _collect(watched: Watched) -> None:
    """Read what a program writes, and keep the end of it."""
    pipe = watched.process.popen.stdout
    if pipe is None:
        return
    loop = asyncio.get_running_loop()
    closed: asyncio.Future[None] = loop.create_future()
    transport, _ = await loop.connect_read_pipe(lambda: _Output(watched.output, closed), pipe)
    try:
        await closed
    finally:
        transport.close()


class _Output(asyncio.Protocol):
    def __init__(self, kept: bytearray, closed: "asyncio.Future[None]") -> None:
        self._kept = kept
        self._closed = closed

    def data_received(self, data: bytes) -> None:
        self._kept += data
        del self._kept[:-KEPT_OUTPUT]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if not self._closed.done():
            self._closed.set_result(None)
