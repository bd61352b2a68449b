"""What Docker's configuration knows of a registry: a user, or a program that knows him.

https://docs.docker.com/reference/cli/docker/login/: config.json with `auths`, `credHelpers` and `credsStore`.
"""

import base64
import binascii
import contextlib
import os
import re
import select
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.core.errors import UserError
from guestforge.core.files import read_regular
from guestforge.core.run import ending
from guestforge.core.runtime import HOST, Runtime
from guestforge.oci.document import LIMIT, Document, parse_document, part, word

VARIABLE: Final = "DOCKER_CONFIG"
FILE: Final = "config.json"
PREFIX: Final = "docker-credential-"
HELPER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TIME: Final = 60.0  # seconds that a helper has; it may ask a person
MAX_OUTPUT: Final = 64 * 1024  # bytes of what a helper says
MAX_WORD: Final = 32 * 1024  # bytes of a user or a secret; tokens are a few KiB
TOKEN_USER: Final = "<token>"  # noqa: S105 - how a helper says that the secret is an identity token
_UNKNOWN: Final = "credentials not found"  # what every helper says of a registry that it does not know


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and a secret, or an identity token alone."""

    user: str = ""
    secret: str = ""
    identity: str = ""

    def basic(self) -> str | None:
        """Return the value of an Authorization header, None where there is no user."""
        if not self.user:
            return None
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


def find_credentials(registry: str, runtime: Runtime = HOST) -> Credentials:
    """Return what is known of a registry, `host[:port]`; nothing is an empty one.

    Raises UserError for a configuration that can't be read, or a helper that fails.
    """
    path = Path(os.environ.get(VARIABLE) or Path.home() / ".docker") / FILE
    config = _read(path)
    if config is None:
        return Credentials()
    helpers = part(config, "credHelpers", str(path))
    helper = word(helpers, registry, str(path), MAX_WORD) or word(config, "credsStore", str(path), MAX_WORD)
    if helper and (found := _asked(helper, registry, path, runtime)):
        return found
    auths = part(config, "auths", str(path))
    for name in _names(registry):
        if name in auths:
            return _declared(part(auths, name, str(path)), f"{path}: {name}")
    return Credentials()


def _read(path: Path) -> Document | None:
    try:
        data = read_regular(path.resolve(), LIMIT + 1)  # a user may well keep it elsewhere
    except FileNotFoundError:
        return None
    except OSError as e:
        raise UserError(f"{path} can't be read: {e.strerror}", hint=f"{VARIABLE} names another directory") from e
    if data is None:
        raise UserError(f"{path} is no file")
    return parse_document(data, str(path))


def _names(registry: str) -> Iterator[str]:
    """Yield how a registry may be called: old clients wrote URLs."""
    yield registry
    for scheme in ("https://", "http://"):
        for end in ("", "/", "/v2/", "/v1/"):
            yield f"{scheme}{registry}{end}"


def _declared(entry: Document, what: str) -> Credentials:
    identity = word(entry, "identitytoken", what, MAX_WORD)
    text = word(entry, "auth", what, MAX_WORD)
    if not text:
        return Credentials(word(entry, "username", what, MAX_WORD), word(entry, "password", what, MAX_WORD), identity)
    try:
        user, colon, secret = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as e:
        raise UserError(f"{what}: its auth is no base64") from e
    if not colon:
        raise UserError(f"{what}: its auth has no colon between a user and a password")
    return Credentials(user, secret.rstrip("\0"), identity)


def _asked(helper: str, registry: str, path: Path, runtime: Runtime) -> Credentials | None:
    """Ask a helper, which gets the environment of its user. None for a registry that it does not know.

    https://github.com/docker/docker-credential-helpers: the registry on standard input, JSON on standard output.
    """
    if not HELPER.fullmatch(helper):
        raise UserError(f"{path} names a credential helper that is none: {helper[:100]!a}")
    program = PREFIX + helper
    code, output = _output(program, registry.encode(), runtime)
    if code != 0:
        text = output.decode("utf-8", "replace")
        if _UNKNOWN in text:
            return None
        # on failure a helper says why, and no secret
        shown = "".join(letter if letter.isprintable() else " " for letter in text[:500]).strip()
        raise UserError(f"{program}, which {path} names, {ending(code)}: {shown}")
    what = f"what {program} says"
    answer = parse_document(output, what)
    user, secret = (word(answer, key, what, MAX_WORD) for key in ("Username", "Secret"))
    return Credentials(identity=secret) if user == TOKEN_USER else Credentials(user, secret)


def _output(program: str, given: bytes, runtime: Runtime) -> tuple[int, bytes]:
    """Run a helper and return its exit code and what it says; raises UserError for too much or too late."""
    with contextlib.ExitStack() as stack:
        stdin = stack.enter_context(tempfile.TemporaryFile())
        stdin.write(given)
        stdin.seek(0)
        nobody = stack.enter_context(Path(os.devnull).open("wb"))
        spawned = runtime.spawn([program, "get"], env=dict(os.environ), stdin=stdin, stderr=nobody)
        process = stack.enter_context(spawned)
        assert process.popen.stdout is not None
        end, said = time.monotonic() + TIME, b""
        while select.select([process.popen.stdout], [], [], max(end - time.monotonic(), 0))[0]:
            data = os.read(process.popen.stdout.fileno(), MAX_OUTPUT)
            said += data
            if len(said) > MAX_OUTPUT:
                raise UserError(f"{program} says more than {MAX_OUTPUT} bytes")
            if not data:
                code = process.wait(max(end - time.monotonic(), 0.1))
                if code is not None:
                    return code, said
                break
        raise UserError(f"{program} did not answer within {TIME:g} s")
