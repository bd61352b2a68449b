"""What can go wrong between us and a guest's agent, as errors."""

from enum import IntEnum

from guestforge.core.errors import CheckError

MAX_GUEST_TEXT = 2000  # characters of a guest's own words that an error repeats


class Code(IntEnum):
    """The status codes of gRPC, which ttRPC has too (https://github.com/grpc/grpc/blob/master/doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class AgentError(CheckError):
    """A guest's agent can't be reached, or does not do what it was asked for."""


class ConnectError(AgentError):
    """No connection to the port on which the agent should listen."""


class ConnectionLostError(AgentError):
    """The connection ended before the answer came, or had ended before the call; the message says why."""


class ProtocolError(AgentError):
    """The guest sent bytes that ttRPC, or the answer's message type, does not allow."""


class NotReadyError(AgentError):
    """The agent did not say that it serves within the limit, or the machine ended before."""


class OutputLimitError(AgentError):
    """A process in the guest wrote more than the caller takes."""


class RpcError(AgentError):
    """A call that the agent refused, or did not answer in time (DEADLINE_EXCEEDED).

    `method` is the method's bare name, `code` the status code (see Code; a guest may send any number), `detail` the
    agent's words, without control characters and cut to MAX_GUEST_TEXT characters.
    """

    def __init__(self, method: str, code: int, detail: str) -> None:
        self.method = method
        self.code = code
        self.detail = printable(detail)
        super().__init__(f"{method}: {self.name}: {self.detail}" if self.detail else f"{method}: {self.name}")

    @property
    def name(self) -> str:
        """The code's name, such as NOT_FOUND."""
        try:
            return Code(self.code).name
        except ValueError:
            return f"CODE_{self.code}"


def printable(text: str) -> str:
    """Return a guest's words as one line that is safe on a terminal, cut to MAX_GUEST_TEXT characters."""
    cut = text[:MAX_GUEST_TEXT]
    line = "".join(c if c.isprintable() else " " for c in cut).strip()
    return line + (" [...]" if len(text) > MAX_GUEST_TEXT else "")
