"""An HTTP server on this machine, for as long as a block lasts: what stands before or in the place of a real one."""

import threading
from http.server import ThreadingHTTPServer


class Loopback:
    """Its handlers find it as `self.server.owner`."""

    handler = None  # a BaseHTTPRequestHandler

    def __enter__(self):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # connections are cut on purpose
        self._server.owner = self
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
