"""HTTP for whoever trusts no server: answers are bounded in bytes and seconds, and tries repeated within limits.

Credentials go to the places that they are for and nowhere else: redirections are followed here, not by requests.
"""

import contextlib
import ipaddress
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from guestforge import __version__
from guestforge.core.errors import GuestforgeError, UserError
from guestforge.publish.body import Body
from guestforge.publish.patience import Patience, asked_pause

CONNECT: Final = 20.0  # seconds to connect, and to take each piece that we send
SILENCE: Final = 60.0  # seconds without a byte
PACE: Final = 1024  # bytes a second that an answer must have on the whole, beyond the first SILENCE
LIMIT: Final = 4 * 1024 * 1024  # bytes of a document; what registries take of a manifest
MAX_REDIRECTS: Final = 5
CHUNK: Final = 256 * 1024
MAX_SHOWN: Final = 500  # characters of what a server says
AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")  # Debian's, to which administrators add their own


class Auth(Protocol):
    """Who we are to a server."""

    def header(self, url: str) -> str | None:
        """Return what goes into Authorization for an URL, None for nothing."""

    def renew(self, challenge: str) -> bool:
        """Take the WWW-Authenticate of a refusal; return whether it is worth another try."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said, all of it."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    def said(self) -> str:
        """Return what it said in words, for a person: bounded, and without what a terminal would obey."""
        text = self.data[:MAX_SHOWN].decode("utf-8", "replace")
        return "".join(letter if letter.isprintable() else " " for letter in text).strip()

    def line(self) -> str:
        """Return the status and those words, as an error has them."""
        return f"it answers {self.status} {self.said()}".rstrip()


class NetworkError(Exception):
    """A try failed in a way in which the next one may succeed."""


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


Origin = tuple[str, str | None, int | None]


def origin(url: str) -> Origin:
    """Return the scheme, host and port of an URL, by which credentials are kept apart."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


class Client:
    """Asks one service, `title` in errors. Without `plain`, http is for this machine alone."""

    def __init__(self, title: str, auth: Auth, *, plain: bool = False) -> None:
        self.title = title
        self.auth = auth
        self._plain = plain
        self._session = requests.Session()
        self._session.auth = _nothing  # else requests looks into ~/.netrc
        self._session.headers = {"User-Agent": f"guestforge/{__version__}", "Accept-Encoding": "identity"}
        if CERTIFICATES.is_file() and not os.environ.get("REQUESTS_CA_BUNDLE"):
            self._session.verify = str(CERTIFICATES)

    def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        again: Callable[[Answer], bool] | None = None,
    ) -> Answer:
        """Ask, again where that may help, and return what was said at last; `again` judges more than the usual.

        Raises BuildError for a server that does not answer, or that asks for too much patience.
        """
        patience = Patience(f"{self.title}: {method} {urlsplit(url).path}"[:300])
        while True:
            try:
                answer = self.once(method, url, headers=headers, data=data)
            except NetworkError as e:
                patience.wait(str(e))
                continue
            if answer.status in AGAIN or (again and again(answer)):
                patience.wait(answer.line(), asked_pause(answer.headers))
                continue
            return answer

    def once(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, data: bytes | Body | None = None
    ) -> Answer:
        """Ask once and return what was said; raises NetworkError for no answer."""
        with self.opened(method, url, headers=headers, data=data) as response:
            found = b"" if method == "HEAD" else b"".join(read_paced(response, LIMIT))
            return Answer(response.status_code, response.headers, found)

    @contextlib.contextmanager
    def opened(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, data: bytes | Body | None = None
    ) -> Iterator[requests.Response]:
        """Yield an answer of which the head has been read. Who we are is told when the server asks for it."""
        response = self._send(method, url, headers, data)
        try:
            if response.status_code == 401 and self.auth.renew(response.headers.get("WWW-Authenticate", "")):
                response.close()
                response = self._send(method, url, headers, data)
            yield response
        finally:
            response.close()

    def _send(
        self, method: str, url: str, headers: Mapping[str, str] | None, data: bytes | Body | None
    ) -> requests.Response:
        for _ in range(MAX_REDIRECTS):
            self.require_allowed(url)
            shown = self.auth.header(url)
            response = self._sent(method, url, {**(headers or {}), **({"Authorization": shown} if shown else {})}, data)
            target = response.headers.get("Location")
            if method not in ("GET", "HEAD") or response.status_code not in (301, 302, 303, 307, 308) or not target:
                return response
            response.close()
            url = urljoin(url, target)
        raise UserError(f"{self.title} sends us from one place to the next, more than {MAX_REDIRECTS} times")

    def _sent(self, method: str, url: str, headers: Mapping[str, str], data: bytes | Body | None) -> requests.Response:
        host = urlsplit(url).hostname or ""
        past = {"no_proxy": host} if is_loopback(host) else None  # no proxy leads to this machine
        with _network_errors():
            return self._session.request(
                method,
                url,
                headers=dict(headers),
                data=data,
                timeout=(CONNECT, SILENCE),
                allow_redirects=False,
                stream=True,
                proxies=past,
            )

    def require_allowed(self, url: str) -> None:
        """Raise UserError for an URL that we do not speak to: what others could read or change on its way."""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname or "", parts.port
        except ValueError as e:
            raise UserError(f"{self.title} names an address that is none: {url[:200]!a}") from e
        if not host or parts.scheme not in ("http", "https"):
            raise UserError(f"{self.title} names an address that is none of http or https: {url[:200]!a}")
        if parts.scheme == "http" and not self._plain and not is_loopback(host):
            raise UserError(
                f"{self.title}: http to {host} can be read and changed on its way",
                hint="use https, or give --plain-http where you trust the network",
            )


def read_paced(response: requests.Response, limit: int) -> Iterator[bytes]:
    """Yield what is left of an answer; raises NetworkError where it ends early, crawls or is too long."""
    start, size = time.monotonic(), 0
    while True:
        with _network_errors():
            data = response.raw.read(min(CHUNK, limit + 1 - size), decode_content=False)
        if not data:
            return
        size += len(data)
        if size > limit:
            raise NetworkError(f"it sends more than {limit} bytes")
        if time.monotonic() - start > SILENCE + size / PACE:
            raise NetworkError(f"it sends less than {PACE} bytes a second")
        yield data


@contextlib.contextmanager
def _network_errors() -> Iterator[None]:
    try:
        yield
    except GuestforgeError:
        raise
    except requests.exceptions.SSLError as e:
        raise UserError(f"its certificate, or its TLS, is not one to trust: {_reason(e)}") from e
    except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError) as e:
        raise NetworkError(_reason(e)) from e


def _reason(error: Exception) -> str:
    """Return what went wrong in words: the innermost reason, for requests wraps what urllib3 wraps."""
    found: BaseException = error
    seen = 0
    while (inner := found.__cause__ or getattr(found, "reason", None) or found.__context__) and seen < 10:
        if not isinstance(inner, BaseException):
            break
        found, seen = inner, seen + 1
    text = str(getattr(found, "strerror", None) or found)[:200]
    return "".join(letter if letter.isprintable() else "?" for letter in text) or type(found).__name__


def _nothing(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
