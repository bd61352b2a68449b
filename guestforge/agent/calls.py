"""Calls of the agent's service over one connection: what the typed methods are made of."""

from types import TracebackType
from typing import Self, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from guestforge.agent.ttrpc import Call, Connection

AGENT_SERVICE = "grpc.AgentService"
HEALTH_SERVICE = "grpc.Health"
DEFAULT_TIMEOUT = 30.0  # seconds; what Kata's runtimes give a request

M = TypeVar("M", bound=Message)


class Calls:
    """Calls of a guest's agent, at the other end of a connection that is closed with them."""

    def __init__(self, connection: Connection, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.connection = connection
        self.timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls that still wait fail."""
        self.connection.close()

    def _do(self, method: str, request: Message, timeout: float | None = None) -> None:
        self._call(method, request, Empty, timeout)

    def _call(self, method: str, request: Message, answer: type[M], timeout: float | None = None) -> M:
        return self._begin(method, request, answer, timeout).result()

    def _begin(self, method: str, request: Message, answer: type[M], timeout: float | None) -> Call[M]:
        return self.connection.begin(AGENT_SERVICE, method, request, answer, self._limit(timeout))

    def _limit(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else timeout
