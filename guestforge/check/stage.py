"""Where the checks of containers take place: a guest's task service, and containers in which the probe answers."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from guestforge.agent.client import AgentClient
from guestforge.agent.dialogue import Dialogue
from guestforge.agent.errors import AgentError, Code, RpcError
from guestforge.agent.metrics import guest_memory, held, parse_metrics
from guestforge.agent.spec import Spec, container_spec, process
from guestforge.agent.storage import Storage as AgentStorage
from guestforge.agent.tasks import TaskError, TaskService
from guestforge.check.engine import CheckFailure, RunEnded
from guestforge.check.exercise import Answer
from guestforge.check.probe import OUTPUT_LIMIT, PROBE, ProbeTalk
from guestforge.check.storages import Storage

SETTLES: Final = 5.0  # seconds in which what has ended has let go of what it had
PAUSE: Final = 0.05

Change = Callable[[Spec], None]


def unchanged(_: Spec) -> None:
    """Leave a specification as it is."""


def with_cgroup(spec: Spec) -> None:
    """Have a container see its cgroup."""
    options = ("ro", "nosuid", "noexec", "nodev")
    spec.Mounts.add(destination="/sys/fs/cgroup", type="cgroup", source="cgroup", options=options)


@dataclass
class Inhabited:
    """A container whose first process is a probe that answers."""

    name: str
    ask: Callable[[Sequence[str]], Answer]


@dataclass
class Stage:
    """A guest to drive containers in. `left` returns the seconds that the check still has.

    `words` are the agent's words for the storages under test, by the names of their checks. All methods raise
    AgentError, those that judge CheckFailure.
    """

    client: AgentClient
    tasks: TaskService
    storages: Sequence[Storage]
    words: Mapping[str, AgentStorage]
    left: Callable[[], float]
    _names: list[str] = field(default_factory=list)

    def storage(self, check: str) -> Storage:
        """Return the storage of a check."""
        return next(storage for storage in self.storages if storage.check == check)

    def start(
        self,
        name: str,
        root: str,
        args: Sequence[str],
        *,
        storages: Sequence[AgentStorage] = (),
        change: Change = unchanged,
        capabilities: Sequence[str] | None = None,
    ) -> None:
        """Create a container on a root directory of the guest and start its first process."""
        first = process(args) if capabilities is None else process(args, capabilities=capabilities)
        spec = container_spec(name, root, first)
        change(spec)
        self.tasks.create(name, spec, storages=storages, timeout=self.left())
        self._names.append(name)
        self.tasks.start(name, timeout=self.left())

    def inhabit(
        self, name: str, root: str, *, storages: Sequence[AgentStorage] = (), change: Change = unchanged
    ) -> Inhabited:
        """Start a container in which the probe answers."""
        self.start(name, root, PROBE, storages=storages, change=change)
        dialogue = Dialogue(self.client, name, self.left, OUTPUT_LIMIT)
        return Inhabited(name, ProbeTalk(dialogue.ask, dialogue.end))

    def create_and_delete(self, name: str, root: str) -> None:
        """Create a container and remove it before it was started."""
        self.tasks.create(name, container_spec(name, root, process(PROBE)), timeout=self.left())
        self.tasks.delete(name, timeout=self.left())

    def end(self, name: str) -> int:
        """Kill what still runs of a container, and remove it; return how its first process ended."""
        try:
            self.tasks.kill(name, number=signal.SIGKILL, timeout=self.left())
        except (RpcError, TaskError) as e:
            if e.code != Code.NOT_FOUND:  # it has ended by itself
                raise
        status = self.tasks.wait(name, timeout=self.left()).status
        self.tasks.delete(name, timeout=self.left())
        self._names.remove(name)
        return status

    def end_all(self) -> None:
        """End all containers, the last one first."""
        for name in reversed(self._names.copy()):
            self.end(name)

    @contextlib.contextmanager
    def cleared(self) -> Iterator[None]:
        """End all containers where the block fails, as far as that goes, so that other checks have room."""
        try:
            yield
        except (AgentError, CheckFailure):
            with contextlib.suppress(AgentError, RunEnded):
                self.end_all()
            raise

    def held(self) -> Mapping[str, int]:
        """Return how much the guest has of what can be left behind."""
        return held(parse_metrics(self.client.metrics()))

    def available_kib(self) -> int:
        """Return how much memory the guest has left."""
        memory = guest_memory(parse_metrics(self.client.metrics()))
        return memory.available_kib + memory.percpu_free_kib

    def settle(self, before: Mapping[str, int]) -> None:
        """Have the guest come to hold what it did before; raises CheckFailure for what it has more or less of."""
        end = time.monotonic() + min(SETTLES, self.left())
        while (now := self.held()) != before and time.monotonic() < end:
            time.sleep(PAUSE)
        if now != before:
            wrong = (f"{now.get(key)} {key}, {before.get(key)} before" for key in {*now, *before})
            raise CheckFailure("what containers had is left behind: " + "; ".join(sorted(wrong)))


def expect(what: str, found: object, wanted: object) -> None:
    """Raise CheckFailure unless two values are equal."""
    if found != wanted:
        raise CheckFailure(f"{what} is {found!r:.160}, not {wanted!r:.160}")
