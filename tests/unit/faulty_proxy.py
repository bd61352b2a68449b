"""An HTTP proxy between us and a server that cuts, stalls, refuses and lies as it is told."""

import contextlib
import http.client
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from loopback import Loopback

HOP = {"connection", "transfer-encoding", "keep-alive"}


@dataclass
class Fault:
    """What happens to requests with a method to a path, so many times.

    `kind`: `cut` closes after `at` bytes of the request's body (which the server gets), `cut answer` after as many of
    the answer's, `stall` says nothing, `garbage` says nonsense, `status` answers with one and headers, `flip` changes
    the answer's last byte, `length` adds `at` to the answer's Content-Length, `header` changes headers of the answer.
    """

    method: str
    path: str
    kind: str
    at: int = 0
    times: int = 1
    headers: dict = field(default_factory=dict)
    met: int = 0

    def meets(self, method, path):
        if method != self.method or not re.search(self.path, path) or self.met >= self.times:
            return False
        self.met += 1
        return True


# What goes wrong with any server, once or always: arguments of Fault.
USUAL = {
    "cut": {"kind": "cut", "at": 100_000},
    "cut answer": {"kind": "cut answer"},
    "stall": {"kind": "stall"},
    "garbage": {"kind": "garbage"},
    "500": {"kind": "status", "at": 500},
    "429": {"kind": "status", "at": 429, "headers": {"Retry-After": "0"}},
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, *_):
        pass

    def _any(self):
        proxy = self.server.owner
        length = int(self.headers.get("Content-Length", 0))
        fault = next((one for one in proxy.faults if one.meets(self.command, self.path)), None)
        proxy.seen.append((self.command, self.path, length))
        kind = fault.kind if fault else ""
        if kind == "stall":
            proxy.over.wait(30)
            self.close_connection = True
        elif kind == "garbage":
            self.wfile.write(b"\0\1 this is no HTTP\r\n" * 5)
            self.close_connection = True
        elif kind == "status":
            self._drained(length)
            self._answer(fault.at, fault.headers, b'{"errors": [{"message": "later\\u001b[31m"}]}')
        else:
            self._forward(fault, kind, length)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _any

    def _drained(self, length):
        while length:
            data = self.rfile.read(min(65536, length))
            if not data:
                return
            length -= len(data)

    def _forward(self, fault, kind, length):
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.owner.target, timeout=30)
        with contextlib.closing(upstream):
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP:
                    upstream.putheader(name, value)
            upstream.endheaders()
            left = min(length, fault.at) if kind == "cut" else length
            while left:
                data = self.rfile.read(min(65536, left))
                upstream.send(data)
                left -= len(data)
            if kind == "cut":
                self.close_connection = True
                return
            answer = upstream.getresponse()
            data = answer.read()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in HOP}
            self._changed(fault, kind, answer.status, headers, data)

    def _changed(self, fault, kind, status, headers, data):
        if kind == "cut answer":
            self.close_connection = True
            self._answer(status, headers, data[: fault.at])
            return
        if kind == "flip":
            data = data[:-1] + bytes([data[-1] ^ 1]) if data else data
        if kind == "length":
            headers["Content-Length"] = str(len(data) + fault.at)
            data = data[: len(data) + fault.at]
            self.close_connection = True
        if kind == "header":
            headers |= fault.headers
        self._answer(status, headers, data)

    def _answer(self, status, headers, data):
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "content-length" not in {name.lower() for name in headers}:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


class Proxy(Loopback):
    """The proxy to a port of this machine, while its block lasts."""

    handler = _Handler

    def __init__(self, target):
        self.target = target
        self.faults = []
        self.seen = []
        self.over = threading.Event()

    def __exit__(self, *raised):
        self.over.set()
        super().__exit__(*raised)

    def sent(self, method, path):
        """The bytes of each request with a method to a path."""
        return [length for one, where, length in self.seen if one == method and re.search(path, where)]
