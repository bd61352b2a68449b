"""ttRPC's client side: concurrent unary calls over one connection.

What comes from the other side is a guest's, and not trusted: frames are bounded, answers that nobody waits for are
dropped, and a malformed one ends the connection with every call that still waits.
"""

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

from google.protobuf.message import DecodeError, Message

from guestforge.agent.errors import Code, ConnectionLostError, ProtocolError, RpcError
from guestforge.agent.frames import MAX_DATA, MAX_STREAM, Frame, FrameParser, Kind, encode_frame
from guestforge.agent.proto.ttrpc_pb2 import Request, Response
from guestforge.core.signals import awaited, held

M = TypeVar("M", bound=Message)
Ended = ConnectionLostError | ProtocolError  # why a connection is no more

READ_SIZE = 64 * 1024
LOGGED_STRAYS = 10  # frames without a call; a guest could fill the log with more
MAX_POLL = 2_000_000.0  # seconds: poll(2) takes milliseconds in 32 bits
MAX_TIMEOUT_NANO = 2**63 - 1

log = logging.getLogger(__name__)


class Call(Generic[M]):
    """A call under way. Its method is that which the request named, its deadline is on the monotonic clock."""

    def __init__(self, connection: "Connection", method: str, answer: type[M], timeout: float | None) -> None:
        self.method = method
        self.stream = 0
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self._timeout = timeout
        self._connection = connection
        self._answer = answer
        self._done = threading.Event()
        self._outcome: Response | Ended | None = None
        self.ended_at: float | None = None  # seconds since 1970

    def wait(self, seconds: float) -> bool:
        """Wait for up to `seconds`; return whether `result` would return or raise at once."""
        return awaited(self._done.wait, seconds) or self.left() == 0

    def result(self) -> M:
        """Wait for the answer and return it.

        Raises RpcError for a refusal and for an answer that is overdue, ConnectionLostError when the connection ends
        before, ProtocolError for an answer that is no message of the expected type.
        """
        try:
            awaited(self._done.wait, self.left())
        finally:
            self._connection.forget(self)
        if self._outcome is None:
            raise self.overdue("no answer")
        if isinstance(self._outcome, Ended):
            # A new one: the same reason ends every pending call, each in a thread of its own.
            raise type(self._outcome)(f"{self.method}: {self._outcome.message}") from self._outcome
        if self._outcome.status.code != Code.OK:
            raise RpcError(self.method, self._outcome.status.code, self._outcome.status.message)
        return self._decode(self._outcome.payload)

    def left(self) -> float | None:
        """Return the seconds until the deadline, at least 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def overdue(self, what: str) -> RpcError:
        """Return the error of a call whose deadline is over."""
        return RpcError(self.method, Code.DEADLINE_EXCEEDED, f"{what} within {self._timeout or 0:g} s")

    def end(self, outcome: Response | Ended) -> None:
        """Give the call its outcome, once."""
        self._outcome, self.ended_at = outcome, time.time()
        self._done.set()

    def _decode(self, payload: bytes) -> M:
        message = self._answer()
        try:
            message.ParseFromString(payload)
        except DecodeError as e:
            raise ProtocolError(f"{self.method}: the answer is no {message.DESCRIPTOR.name}: {e}") from e
        return message


class Connection:
    """One connection to a ttRPC server. Calls may be made from any number of threads at once.

    It takes the connected stream socket over and closes it. A thread reads what comes; it ends with the connection.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._sending = threading.Lock()
        self._lock = threading.Lock()  # of what follows
        self._calls: dict[int, Call[Message]] = {}
        self._next_stream = 1
        self._ended: Ended | None = None
        self._strays = 0
        self._reader = threading.Thread(target=self._read, name="ttrpc-reader", daemon=True)
        with held():
            self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def ended(self) -> Ended | None:
        """Why the connection has ended, None while it has not."""
        return self._ended

    def call(self, service: str, method: str, request: Message, answer: type[M], timeout: float | None) -> M:
        """Make a call and return the answer; `timeout` in seconds, None to wait as long as the connection lives.

        Raises what Call.result raises.
        """
        return self.begin(service, method, request, answer, timeout).result()

    def begin(self, service: str, method: str, request: Message, answer: type[M], timeout: float | None) -> Call[M]:
        """Send a request and return the call that waits for the answer.

        Raises RpcError for a request that does not fit into a frame (RESOURCE_EXHAUSTED) or that the guest does not
        take in time (DEADLINE_EXCEEDED), ConnectionLostError when the connection has ended.
        """
        call = Call(self, method, answer, timeout)
        data = _request(service, method, request, timeout)
        with self._turn_to_send(call):
            # Under the lock: a server refuses a stream id that is not above the one before.
            self._register(call)
            try:
                self._send(call, encode_frame(Frame(call.stream, Kind.REQUEST, data)))
            except BaseException:
                self.forget(call)
                raise
        return call

    def forget(self, call: Call[M]) -> None:
        """Wait for a call's answer no longer; one that still comes is dropped."""
        with self._lock:
            self._calls.pop(call.stream, None)

    def close(self) -> None:
        """End the connection: calls that still wait fail, and the reader's thread ends. May be called again."""
        self._end(ConnectionLostError("the connection was closed on this side"))
        self._reader.join()

    @contextlib.contextmanager
    def _turn_to_send(self, call: Call[M]) -> Iterator[None]:
        left = call.left()
        if not self._sending.acquire(timeout=-1 if left is None else left):
            raise call.overdue("the request could not be sent")
        try:
            yield
        finally:
            self._sending.release()

    def _register(self, call: Call[M]) -> None:
        with self._lock:
            if self._ended is not None:
                raise ConnectionLostError(f"{call.method}: {self._ended.message}") from self._ended
            if self._next_stream > MAX_STREAM:
                raise ConnectionLostError(f"{call.method}: the connection has used up its stream ids")
            call.stream = self._next_stream
            self._next_stream += 2  # a client's are odd
            self._calls[call.stream] = call  # type: ignore[assignment]  # only its `end` is called

    def _send(self, call: Call[M], frame: bytes) -> None:
        rest = memoryview(frame)
        try:
            while rest:
                if not _wait(self._socket, select.POLLOUT, call.left()):
                    raise self._not_taken(call, begun=len(rest) < len(frame))
                with contextlib.suppress(BlockingIOError):
                    rest = rest[self._socket.send(rest) :]
        except OSError as e:
            self._end(ConnectionLostError(f"the connection broke: {e.strerror}"))
            raise ConnectionLostError(f"{call.method}: {self._ended}") from e

    def _not_taken(self, call: Call[M], begun: bool) -> RpcError:
        if begun:  # the next frame would be taken for the rest of this one
            self._end(ConnectionLostError("the guest did not take a request"))
        return call.overdue("the guest did not take the request")

    def _read(self) -> None:
        try:
            self._read_frames()
        except (ConnectionLostError, ProtocolError) as e:
            self._end(e)
        except OSError as e:
            self._end(ConnectionLostError(f"the connection broke: {e.strerror}"))
        except Exception as e:  # a mistake of ours must not leave callers waiting
            log.exception("the reader of a ttRPC connection failed")
            self._end(ConnectionLostError(f"the connection's reader failed: {e!r}"))
        with self._sending:  # nobody may use a descriptor's number after it was given back
            self._socket.close()

    def _read_frames(self) -> None:
        parser = FrameParser()
        while self._ended is None:
            _wait(self._socket, select.POLLIN, None)
            try:
                piece = self._socket.recv(READ_SIZE)
            except BlockingIOError:
                continue
            if not piece:
                where = " in the middle of a frame" if parser.inside_frame else ""
                raise ConnectionLostError(f"the guest closed the connection{where}")
            for frame in parser.feed(piece):
                self._take(frame)

    def _take(self, frame: Frame) -> None:
        with self._lock:
            call = self._calls.pop(frame.stream, None) if frame.kind == Kind.RESPONSE else None
        if call is None:
            self._stray(frame)
            return
        response = Response()
        try:
            response.ParseFromString(frame.data)
        except DecodeError as e:
            error = ProtocolError(f"the guest sent a malformed response: {e}")
            call.end(error)
            raise error from e
        call.end(response)

    def _stray(self, frame: Frame) -> None:
        self._strays += 1
        if self._strays <= LOGGED_STRAYS:
            last = " (no more of these are logged)" if self._strays == LOGGED_STRAYS else ""
            log.warning("dropped a frame without a call: kind %d, stream %d%s", frame.kind, frame.stream, last)

    def _end(self, reason: Ended) -> None:
        with self._lock:
            if self._ended is not None:
                return
            self._ended = reason
            waiting = list(self._calls.values())
            self._calls.clear()
        with contextlib.suppress(OSError):  # not connected any more
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the reader, and whoever waits to send
        for call in waiting:
            call.end(reason)


def _request(service: str, method: str, request: Message, timeout: float | None) -> bytes:
    nano = 0 if timeout is None else min(max(int(timeout * 1e9), 1), MAX_TIMEOUT_NANO)
    envelope = Request(service=service, method=method, payload=request.SerializeToString(), timeout_nano=nano)
    data: bytes = envelope.SerializeToString()
    if len(data) > MAX_DATA:
        raise RpcError(method, Code.RESOURCE_EXHAUSTED, f"the request has {len(data)} bytes, {MAX_DATA} fit in a frame")
    return data


def _wait(sock: socket.socket, event: int, seconds: float | None) -> bool:
    """Whether a socket is ready for an event, or at its end, within `seconds`, of which MAX_POLL are waited for."""
    poll = select.poll()
    poll.register(sock, event)
    return bool(poll.poll(None if seconds is None else min(seconds, MAX_POLL) * 1000))
