"""What an image says of its process: the image's own configuration, as far as a container's process follows from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from guestforge.arch import ARCHES, Arch
from guestforge.core.errors import UserError
from guestforge.oci.document import Document, part, word, words

WHAT: Final = "the image's configuration"
MAX_WORDS: Final = 4096
MAX_WORD: Final = 128 * 1024 - 1  # what execve(2) takes of one, MAX_ARG_STRLEN
MAX_TOTAL: Final = 1024 * 1024  # bytes of arguments and environment, of which execve(2) takes 2 MiB with 8 MiB of stack
MAX_PATH: Final = 4095
MAX_NAME: Final = 1024


@dataclass(frozen=True, slots=True)
class Config:
    """An image's entrypoint and command, environment, working directory, and its user as it names it."""

    args: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str
    user: str


def require_architecture(document: Document, arch: Arch) -> None:
    """Raise UserError for an image that is not for Linux, and one for another architecture than a guest's."""
    system = word(document, "os", WHAT, MAX_NAME)
    theirs = word(document, "architecture", WHAT, MAX_NAME)
    if not system or not theirs:
        raise UserError(f"{WHAT} has no {'architecture' if system else 'os'}")
    if system != "linux":
        raise UserError(f"the image is for {system!r}; a guest runs linux")
    if theirs == arch.go:
        return
    ours = next((row.name for row in ARCHES.values() if row.go == theirs), None)
    raise UserError(
        f"the image is for {ours or repr(theirs)}, the guest is {arch.name}",
        hint=f"--arch {ours}" if ours else "take an image of the guest's architecture, or another guest with --arch",
    )


def parse_config(document: Document) -> Config:
    """Return what an image's configuration says of the process. Raises UserError for what no runtime would start."""
    config = part(document, "config", WHAT)
    entrypoint, command = (words(config, key, WHAT, MAX_WORDS, MAX_WORD) for key in ("Entrypoint", "Cmd"))
    variables = words(config, "Env", WHAT, MAX_WORDS, MAX_WORD)
    if sum(len(each.encode()) for each in (*entrypoint, *command, *variables)) > MAX_TOTAL:
        raise UserError(f"{WHAT} has more than {MAX_TOTAL} bytes of arguments and environment")
    cwd = word(config, "WorkingDir", WHAT, MAX_PATH) or "/"
    if not cwd.startswith("/"):
        raise UserError(f"{WHAT} has the working directory {cwd[:100]!r}, which is not absolute")
    return Config(entrypoint + command, _environment(variables), cwd, word(config, "User", WHAT, MAX_NAME))


def _environment(entries: tuple[str, ...]) -> Mapping[str, str]:
    """Return variables, the last of a name. One without a name or a `=` is refused, as runc does.

    https://github.com/opencontainers/runc/blob/main/libcontainer/env.go
    """
    found = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not name or not equals:
            raise UserError(f"{WHAT} has {entry[:100]!r} in its environment, which is not NAME=VALUE")
        found[name] = value
    return found
