"""A ttRPC server for tests, with a framing of its own: what the client sends is not judged by the client's code."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Mapping

from google.protobuf.message import Message

from guestforge.agent.proto.ttrpc_pb2 import Request, Response

Handler = Callable[[bytes], Message]


class Refusal(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def read_exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def read_request(sock: socket.socket) -> tuple[int, Request]:
    length, stream, kind, flags = struct.unpack(">IIBB", read_exactly(sock, 10))
    assert (kind, flags, stream % 2) == (1, 0, 1)
    assert length <= 4 << 20
    return stream, Request.FromString(read_exactly(sock, length))


def response_frame(stream: int, response: Response, kind: int = 2) -> bytes:
    data = response.SerializeToString()
    return struct.pack(">IIBB", len(data), stream, kind, 0) + data


def answer_frame(stream: int, answer: Message) -> bytes:
    return response_frame(stream, Response(payload=answer.SerializeToString()))


class Server:
    """Serves one end of a connection, each request in a thread; `seen` are the requests in the order they came."""

    def __init__(self, sock: socket.socket, methods: Mapping[str, Handler]) -> None:
        self.socket = sock
        self.seen: list[Request] = []
        self.streams: list[int] = []
        self._methods = methods
        self._sending = threading.Lock()
        self._workers: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def join(self) -> None:
        """Wait until the client has closed the connection."""
        self._thread.join(10)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        for worker in self._workers:
            worker.join(10)
        self.socket.close()

    def _serve(self) -> None:
        try:
            while True:
                stream, request = read_request(self.socket)
                self.streams.append(stream)
                self.seen.append(request)
                worker = threading.Thread(target=self._answer, args=(stream, request))
                self._workers.append(worker)
                worker.start()
        except (EOFError, OSError):
            pass

    def _answer(self, stream: int, request: Request) -> None:
        response = Response()
        try:
            handler = self._methods.get(request.method)
            if handler is None:
                raise Refusal(12, f"/{request.service}/{request.method} is not supported")
            response.payload = handler(request.payload).SerializeToString()
        except Refusal as e:
            response.status.code, response.status.message = e.code, str(e)
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(response_frame(stream, response))
