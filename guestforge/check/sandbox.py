"""The sandbox of a guest under check: programs run in containers on its storages.

A storage is given to the first container on it, as runtimes give an agent the disks of a container, and that container
is kept until the storage is released. So one that the agent can't mount fails alone, with the agent's reason: a
kata-agent that has refused one CreateSandbox refuses every later one. And the agent unmounts it with the container; a
kata-agent unmounts nothing at its end.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

from guestforge.agent.client import AgentClient
from guestforge.agent.container import Result, begin_container, finish_container, removed_on_failure, run_container
from guestforge.agent.dialogue import Dialogue
from guestforge.agent.errors import AgentError, Code, RpcError
from guestforge.agent.storage import Storage as AgentStorage
from guestforge.check.storages import Storage

SANDBOX = "guestforge-check"


class StorageRefusedError(AgentError):
    """The agent refused a container that was given a storage; the reason is the agent's."""


class Sandbox:
    """Runs programs on storages, of which `words` are what the agent is told, by their checks. Raises AgentError."""

    def __init__(self, client: AgentClient, words: Mapping[str, AgentStorage]) -> None:
        self._client = client
        self._words = words
        self._numbers = itertools.count(1)
        self._holders: dict[str, str] = {}  # the container that has a storage, by the name of its check

    def create(self) -> None:
        """Create the sandbox, without any storage."""
        self._client.create_sandbox(SANDBOX)

    def run(self, storage: Storage, args: Sequence[str], timeout: float, limit: int) -> Result:
        """Run a program in a container on a storage, which is mounted for the first one.

        It gets `timeout` seconds, and may write `limit` bytes to each of its streams. Raises StorageRefusedError where
        the agent makes no container with the storage.
        """
        name = self._name(storage)
        if storage.check not in self._holders:
            return self._run_first(name, storage, args, timeout, limit)
        return run_container(self._client, name, storage.mount_point, args, timeout=timeout, output_limit=limit)

    def talk(self, storage: Storage, args: Sequence[str], left: Callable[[], float], limit: int) -> Dialogue:
        """Start a program that answers lines in a container on a storage, the first one on it.

        `left` returns the seconds that remain, `limit` is that of a Dialogue. Raises as `run` does.
        """
        name = self._name(storage)
        begun = self._begin_first(name, storage, args, left())
        with removed_on_failure(self._client, name):
            self._client.start_container(name, timeout=begun())
        self._holders[storage.check] = name
        return Dialogue(self._client, name, left, limit)

    def release(self, storage: Storage, timeout: float) -> None:
        """Have the agent unmount a storage on which no program runs any more."""
        if name := self._holders.pop(storage.check, None):
            self._client.remove_container(name, timeout)

    def _name(self, storage: Storage) -> str:
        return f"{storage.check}-{next(self._numbers)}"

    def _run_first(self, name: str, storage: Storage, args: Sequence[str], timeout: float, limit: int) -> Result:
        left = self._begin_first(name, storage, args, timeout)
        result = finish_container(self._client, name, left, output_limit=limit, keep=True)
        self._holders[storage.check] = name
        return result

    def _begin_first(self, name: str, storage: Storage, args: Sequence[str], timeout: float) -> Callable[[], float]:
        """Create the container that a storage is given to; return what counts the seconds down."""
        storages = [self._words[storage.check]]
        try:
            return begin_container(self._client, name, storage.mount_point, args, storages=storages, timeout=timeout)
        except RpcError as e:
            if e.code == Code.DEADLINE_EXCEEDED:
                raise
            raise StorageRefusedError(f"the agent refused a container with it: {e.message}") from e
