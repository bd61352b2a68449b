"""Who we are to a registry: a user's name, or a token that another server gives for it.

https://distribution.github.io/distribution/spec/auth/token/, and its OAuth2 for identity tokens.
"""

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import urlencode, urljoin, urlsplit

from guestforge.core.errors import UserError
from guestforge.oci.document import parse_document, word
from guestforge.publish.credentials import Credentials
from guestforge.publish.http import Client, Origin, origin

MAX_TOKEN: Final = 64 * 1024  # bytes; those of large clouds have a few thousand
MAX_RENEWALS: Final = 50  # of one task: tokens live for a minute at least
_PARAMETER: Final = re.compile(r'([A-Za-z]+)\s*=\s*(?:"([^"\\]{0,4000})"|([^\s",]{1,4000}))')


class RegistryAuth:
    """The credentials of one registry, for its own origin alone. They are looked for when it asks."""

    def __init__(self, base: str, scope: str, find: Callable[[], Credentials], *, plain: bool) -> None:
        """`base` is the registry's URL; `scope` what a token is asked for that names none."""
        self._base = base
        self._origin = origin(base)
        self._scope = scope
        self._find = find
        self._plain = plain
        self._credentials: Credentials | None = None
        self._header: str | None = None
        self._renewals = 0

    def header(self, url: str) -> str | None:
        """Return what goes into Authorization for an URL."""
        return self._header if origin(url) == self._origin else None

    def renew(self, challenge: str) -> bool:
        """Do what a refusal asks for; False where we can't, or have done it."""
        self._credentials = self._credentials or self._find()
        scheme, _, rest = challenge.strip().partition(" ")
        self._renewals += 1
        if self._renewals > MAX_RENEWALS:
            return False
        if scheme.lower() == "basic":
            before, self._header = self._header, self._credentials.basic()
            return self._header is not None and self._header != before
        if scheme.lower() != "bearer":
            return False
        given = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(rest)}
        self._header = f"Bearer {self._token(given)}"
        return True

    def _token(self, given: dict[str, str]) -> str:
        assert self._credentials is not None
        realm = urljoin(self._base, given.get("realm", ""))
        client = Client(f"{urlsplit(realm).netloc[:200]!a}, which gives tokens", _Fixed(self._credentials.basic()),
                        plain=self._plain)  # fmt: skip
        asked = {"service": given.get("service", ""), "scope": given.get("scope") or self._scope}
        if self._credentials.identity:
            more = {"grant_type": "refresh_token", "client_id": "guestforge"}
            form = urlencode({**asked, **more, "refresh_token": self._credentials.identity}).encode()
            client.auth = _Fixed(None)
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = client.ask("POST", realm, headers=kind, data=form)
        else:
            answer = client.ask("GET", f"{realm}{'&' if '?' in realm else '?'}{urlencode(asked)}")
        if answer.status != 200:
            raise UserError(
                f"{client.title}: it refuses our credentials, with {answer.status} {answer.said()}".rstrip(),
                hint="`docker login` writes them to Docker's config.json, which is read here",
            )
        what = f"the answer of {client.title}"
        document = parse_document(answer.data, what)
        token = word(document, "token", what, MAX_TOKEN) or word(document, "access_token", what, MAX_TOKEN)
        if not token or not token.isascii() or not token.isprintable():
            raise UserError(f"{what} has no token")
        return token


class _Fixed:
    """A header for whatever is asked: of one client, which asks one origin."""

    def __init__(self, value: str | None) -> None:
        self._value = value
        self._origin: Origin | None = None

    def header(self, url: str) -> str | None:
        """Return the header for the first origin that is asked, and nothing for where that one sends us."""
        self._origin = self._origin or origin(url)
        return self._value if origin(url) == self._origin else None

    def renew(self, _: str) -> bool:
        """Return False: there is nothing else to say."""
        return False
