"""Reads the host's apt sources: which mirror of Debian it uses, and which keys it trusts for it.

Formats: sources.list(5). Only the parts that we need are read, and whatever would weaken the verification of
signatures (`trusted=yes`, `allow-insecure`) is left behind on purpose.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from guestforge.core.errors import UserError

ETC = Path("/etc/apt")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MAX_BYTES = 1024 * 1024

# Releases and the names that move along them: what tells Debian's archive, on whichever mirror, from other archives.
# https://www.debian.org/releases/
SUITES = frozenset(
    {"buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid"}
    | {"oldoldstable", "oldstable", "stable", "testing", "unstable"}
)
# Options of a source that still hold for another suite of the same mirror.
KEPT = ("Signed-By", "Check-Valid-Until", "Check-Date")
URI = re.compile(r"[a-z][a-z0-9+]*:[!-~]{1,2000}")  # no blanks, so that it can't add a field


@dataclass(frozen=True, slots=True)
class Mirror:
    """An archive: its address, and the options under which the host uses it."""

    uri: str
    options: Mapping[str, str]


def debian_mirror(override: str | None = None, etc: Path = ETC, keyring: Path = KEYRING) -> Mirror:
    """Return the mirror of Debian's main archive that the host uses, or `override` with the host's keys for Debian.

    Raises UserError where the host has none, or no key of Debian's.
    """
    found = next(_host_mirrors(etc), None)
    if override is not None:
        return Mirror(_checked(override), found.options if found else _default_keys(keyring))
    if found is None:
        raise UserError(
            f"the apt sources in {etc} name no Debian mirror, from which kernel sources and packages come",
            hint="name one with --mirror",
        )
    return found


def _checked(uri: str) -> str:
    if not URI.fullmatch(uri):
        raise UserError(f"--mirror {uri!r}: not the address of a mirror", hint="such as https://mirror.example/debian")
    return uri


def _default_keys(keyring: Path) -> dict[str, str]:
    if not keyring.is_file():
        raise UserError(
            f"this host has no keys of Debian's archive ({keyring})",
            hint="install the package debian-archive-keyring",
        )
    return {"Signed-By": str(keyring)}


def _host_mirrors(etc: Path) -> Iterator[Mirror]:
    return (Mirror(_uri(stanza), _options(stanza)) for stanza in host_stanzas(etc) if _is_debian_main(stanza))


def host_stanzas(etc: Path) -> Iterator[Mapping[str, str]]:
    """Yield the host's sources, whatever they are of; a file that is larger than any list of them is left out."""
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    for path in files:
        if path.suffix in (".list", ".sources") and path.is_file() and path.stat().st_size <= MAX_BYTES:
            text = path.read_text(errors="replace")
            yield from parse_deb822(text) if path.suffix == ".sources" else parse_list(text)


def _is_debian_main(stanza: Mapping[str, str]) -> bool:
    """Whether a source serves packages of a Debian release's section `main`, and not updates of it elsewhere."""
    return (
        serves_main(stanza)
        and not SUITES.isdisjoint(stanza.get("suites", "").split())
        and URI.fullmatch(_uri(stanza)) is not None
        and not _uri(stanza).startswith("cdrom:")
    )


def serves_main(stanza: Mapping[str, str]) -> bool:
    """Whether a source that is not switched off serves packages of a section `main`."""
    return (
        "deb" in stanza.get("types", "").split()
        and "main" in stanza.get("components", "").split()
        and stanza.get("enabled", "yes").strip().lower() not in ("no", "false", "off", "0")
    )


def _uri(stanza: Mapping[str, str]) -> str:
    return next(iter(stanza.get("uris", "").split()), "")


def _options(stanza: Mapping[str, str]) -> dict[str, str]:
    return {name: stanza[name.lower()] for name in KEPT if name.lower() in stanza}


def parse_deb822(text: str) -> list[dict[str, str]]:
    """Parse stanzas of `Field: value` lines; names in lower case, continuation lines kept as they are."""
    stanzas: list[dict[str, str]] = [{}]
    name = ""
    for line in text.splitlines():
        if not line.strip():
            stanzas.append({})
            name = ""
        elif line.startswith("#"):
            continue
        elif line[0] in " \t":
            if name:
                stanzas[-1][name] += f"\n{line}"
        elif ":" in line:
            name, value = line.split(":", 1)
            name = name.strip().lower()
            stanzas[-1][name] = value.strip()
    return [stanza for stanza in stanzas if stanza]


ONE_LINE = re.compile(r"(deb|deb-src)\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+\S+)*)\s*(?:#.*)?")


def parse_list(text: str) -> list[dict[str, str]]:
    """Parse the one-line format into what `parse_deb822` makes of the same source."""
    stanzas = []
    for line in text.splitlines():
        if match := ONE_LINE.fullmatch(line.strip()):
            kind, options, uri, suite, components = match.groups()
            stanza = {"types": kind, "uris": uri, "suites": suite, "components": components.split("#")[0].strip()}
            stanzas.append(stanza | _one_line_options(options or ""))
    return stanzas


def _one_line_options(text: str) -> dict[str, str]:
    """`[signed-by=a,b arch=amd64]`: a comma separates values there, a blank does in the other format."""
    pairs = (word.split("=", 1) for word in text.split() if "=" in word)
    return {name.lower(): value.replace(",", " ") for name, value in pairs}
