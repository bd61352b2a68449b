"""Running a program in a container of a guest from start to end."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from guestforge.agent.client import OUTPUT_LIMIT, AgentClient
from guestforge.agent.errors import AgentError
from guestforge.agent.spec import DEFAULT_ENV, container_spec, process
from guestforge.agent.storage import Storage
from guestforge.core.countdown import countdown
from guestforge.core.signals import held

CLEAN_UP = 10.0  # seconds that the removal of a container gets when the rest of the time is gone


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended, and what it wrote. The status of one that a signal ended is 128 + the signal's number."""

    status: int
    stdout: bytes
    stderr: bytes


def run_container(
    client: AgentClient,
    container_id: str,
    root: str,
    args: Sequence[str],
    *,
    env: Mapping[str, str] = DEFAULT_ENV,
    cwd: str = "/",
    storages: Sequence[Storage] = (),
    readonly: bool = False,
    timeout: float = 60.0,
    output_limit: int = OUTPUT_LIMIT,
) -> Result:
    """Create a container on a root directory of the guest, run `args` in it, and remove it.

    `timeout` is in seconds and for all of it; `output_limit` in bytes, for each of the two streams.
    Raises what AgentClient's methods raise; the container is removed then too, as far as the guest still does that.
    Any other exception, such as Ctrl-C, passes at once: it leaves the container to the end of the guest.
    """
    left = begin_container(
        client, container_id, root, args, env=env, cwd=cwd, storages=storages, readonly=readonly, timeout=timeout
    )
    return finish_container(client, container_id, left, output_limit=output_limit)


def begin_container(
    client: AgentClient,
    container_id: str,
    root: str,
    args: Sequence[str],
    *,
    env: Mapping[str, str] = DEFAULT_ENV,
    cwd: str = "/",
    storages: Sequence[Storage] = (),
    readonly: bool = False,
    timeout: float = 60.0,
) -> Callable[[], float]:
    """Create a container as `run_container` does, for `finish_container` to run; return what counts `timeout` down."""
    left = countdown(timeout)
    spec = container_spec(container_id, root, process(args, env=env, cwd=cwd), readonly=readonly)
    client.create_container(container_id, spec, storages=storages, timeout=left())
    return left


def finish_container(
    client: AgentClient,
    container_id: str,
    left: Callable[[], float],
    *,
    output_limit: int = OUTPUT_LIMIT,
    keep: bool = False,
) -> Result:
    """Run the program of a container that was created, and remove the container.

    `left` returns the seconds that remain. With `keep` a container whose program has ended is the caller's to remove:
    its storages stay mounted as long as it is there.
    """
    with removed_on_failure(client, container_id):
        client.start_container(container_id, timeout=left())
        result = remains(client, container_id, left, output_limit)
    if not keep:
        client.remove_container(container_id, timeout=max(left(), CLEAN_UP))
    return result


@contextlib.contextmanager
def removed_on_failure(client: AgentClient, container_id: str) -> Iterator[None]:
    """Remove a container where the block raises AgentError, as far as the guest still does that."""
    try:
        yield
    except AgentError:
        with contextlib.suppress(AgentError):  # the first error is the one to tell
            client.remove_container(container_id, timeout=CLEAN_UP)
        raise


def remains(client: AgentClient, container_id: str, left: Callable[[], float], limit: int) -> Result:
    """Return how a container's first program ends, and what it writes from now on."""
    stdout, stderr = _read_both(client, container_id, left, limit)
    return Result(client.wait_process(container_id, timeout=left()), stdout, stderr)


def _read_both(client: AgentClient, container_id: str, left: Callable[[], float], limit: int) -> tuple[bytes, bytes]:
    """Read both streams to their ends at once: a program that fills one pipe would wait for ever for its reader."""

    def read(method: Callable[..., bytes]) -> bytes:
        try:
            return method(container_id, limit=limit, timeout=left())
        except AgentError:
            with contextlib.suppress(AgentError):  # ends the other stream too
                client.signal_process(container_id, timeout=CLEAN_UP)
            raise

    stderr = _Background(lambda: read(client.read_stderr))
    try:
        stdout = read(client.read_stdout)
    except AgentError:
        stderr.join()
        raise
    return stdout, stderr.result()


class _Background:
    """A reader in a thread of its own."""

    def __init__(self, work: Callable[[], bytes]) -> None:
        self._work = work
        self._outcome: bytes | AgentError = b""
        self._thread = threading.Thread(target=self._run, name="stream-reader", daemon=True)
        with held():
            self._thread.start()

    def join(self) -> None:
        """Wait for its end, which the deadline of its call bounds."""
        self._thread.join()

    def result(self) -> bytes:
        """Wait for its end; return what it read, or raise its error."""
        self.join()
        if isinstance(self._outcome, AgentError):
            raise self._outcome
        return self._outcome

    def _run(self) -> None:
        try:
            self._outcome = self._work()
        except AgentError as e:
            self._outcome = e
