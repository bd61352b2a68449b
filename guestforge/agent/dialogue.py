"""A program in a container that answers each line on its standard input with a line on its standard output."""

from collections.abc import Callable
from dataclasses import dataclass, field

from guestforge.agent.client import AgentClient
from guestforge.agent.container import Result, remains
from guestforge.agent.errors import AgentError, OutputLimitError, RpcError


@dataclass
class Dialogue:
    """A talk with the first program of a container that was started. Every method raises AgentError.

    `left` returns the seconds that remain, `limit` is the longest line and the most of anything else, in bytes.
    """

    client: AgentClient
    container_id: str
    left: Callable[[], float]
    limit: int
    _heard: bytearray = field(default_factory=bytearray)

    def ask(self, line: bytes) -> bytes | None:
        """Say a line; return the answer without its end, None where the program's output ended before one was whole."""
        try:
            self.client.write_stdin(self.container_id, line + b"\n", timeout=self.left())
        except RpcError:
            if not self._has_ended():
                raise
            return None  # nobody read the line: how the program ended says more than that
        while b"\n" not in self._heard:
            if not self._hear():
                return None
        answer, _, rest = bytes(self._heard).partition(b"\n")
        self._heard = bytearray(rest)
        return answer

    def _hear(self) -> bool:
        """Take what the program has written since; return False at the end of its output."""
        piece = self.client.read_some(self.container_id, timeout=self.left())
        self._heard += piece
        if len(self._heard) > self.limit:
            raise OutputLimitError(f"container {self.container_id} wrote more than {self.limit} bytes in a line")
        return bool(piece)

    def _has_ended(self) -> bool:
        """Whether the program's output ends, which it does not where a program has only closed its input."""
        try:
            while self._hear():
                pass
        except AgentError:
            return False
        return True

    def end(self) -> Result:
        """Say no more, and wait for the program's end; return that, with what it said beyond its answers."""
        self.client.close_stdin(self.container_id, timeout=self.left())
        ended = remains(self.client, self.container_id, self.left, self.limit)
        return Result(ended.status, bytes(self._heard) + ended.stdout, ended.stderr)
