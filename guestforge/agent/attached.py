"""A container's first process with its standard streams on ours, as `docker run` has it: until it ends."""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from guestforge.agent.client import READ_SIZE, AgentClient
from guestforge.agent.errors import AgentError, Code, RpcError
from guestforge.agent.tasks import FOREVER, Exit, TaskService
from guestforge.core.signals import held

STDIN, STDOUT, STDERR = 0, 1, 2
LAST_WORDS: Final = 10.0  # seconds in which the rest of the output has come, once the process has ended


@dataclass(frozen=True, slots=True)
class Attached:
    """A process with our streams. Nothing of it holds up another: each stream has a thread of its own."""

    client: AgentClient
    tasks: TaskService
    container_id: str

    def run(self, *, resize: Callable[[], tuple[int, int]] | None = None) -> Exit:
        """Start the process and return how it ended; `resize` tells rows and columns of a terminal that it is to have.

        Raises AgentError, where the guest ends too.
        """
        self.tasks.start(self.container_id)
        with _sizes(self._resized(resize)), self._input(), self._outputs() as outputs:
            ended = self.tasks.wait(self.container_id)
            for output in outputs:
                output.join(LAST_WORDS)
        return ended

    def _resized(self, resize: Callable[[], tuple[int, int]] | None) -> Callable[[], None] | None:
        if resize is None:
            return None

        def change() -> None:
            with contextlib.suppress(AgentError):  # it has just ended
                self.tasks.resize_pty(self.container_id, *resize())

        return change

    @contextlib.contextmanager
    def _outputs(self) -> Iterator[list[threading.Thread]]:
        outputs = [
            threading.Thread(target=self._copy, args=(errors, target), name=f"guestforge-output-{target}", daemon=True)
            for errors, target in ((False, STDOUT), (True, STDERR))
        ]
        with held():
            for output in outputs:
                output.start()
        yield outputs

    def _copy(self, errors: bool, target: int) -> None:
        """Copy a stream up to its end. A process whose output nobody takes is ended, as a pipe would have it."""
        with contextlib.suppress(AgentError):
            try:
                while data := self.client.read_some(self.container_id, timeout=FOREVER, errors=errors):
                    _write(target, data)
            except OSError:
                self.tasks.kill(self.container_id, number=signal.SIGKILL)

    @contextlib.contextmanager
    def _input(self) -> Iterator[None]:
        """Pass our input on while the block runs."""
        end, ended = os.pipe()
        thread = threading.Thread(target=self._pass_on, args=(end,), name="guestforge-input", daemon=True)
        with held():
            thread.start()
        try:
            yield
        finally:
            os.close(ended)
            thread.join(LAST_WORDS)
            if not thread.is_alive():
                os.close(end)

    def _pass_on(self, end: int) -> None:
        with contextlib.suppress(OSError, AgentError):
            while end not in select.select([STDIN, end], [], [])[0]:
                data = os.read(STDIN, READ_SIZE)
                if not data:
                    self.tasks.close_io(self.container_id)
                    return
                self._say(data)

    def _say(self, data: bytes) -> None:
        try:
            self.client.write_stdin(self.container_id, data, timeout=FOREVER)
        except RpcError as e:
            if e.code != Code.FAILED_PRECONDITION:  # it has closed its input, as programs may
                raise


@contextlib.contextmanager
def _sizes(change: Callable[[], None] | None) -> Iterator[None]:
    """Have a change of our terminal's size be made while the block runs, first at once."""
    if change is None:
        yield
        return
    news, over = threading.Semaphore(1), threading.Event()

    def follow() -> None:
        while news.acquire() and not over.is_set():
            change()

    thread = threading.Thread(target=follow, name="guestforge-size", daemon=True)
    before = signal.signal(signal.SIGWINCH, lambda *_: news.release())
    try:
        with held():
            thread.start()
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
        over.set()
        news.release()


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
