"""What a user names a place by."""

import re
from pathlib import Path
from typing import Final

from guestforge.core.errors import UserError
from guestforge.publish.place import Place

KINDS: Final = "file:/path, oci://host[:port]/repository:tag or github:owner/repository"
# https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests
_OCI: Final = re.compile(
    r"(?P<host>(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?)/"
    r"(?P<repository>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
    r":(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127})"
)
_GITHUB: Final = re.compile(
    r"(?P<owner>[A-Za-z0-9][A-Za-z0-9-]{0,99})/(?P<name>[A-Za-z0-9._-]{1,100})(?:@(?P<tag>.+))?"
)
MAX_LENGTH: Final = 4096


def find_place(text: str, *, plain: bool) -> Place:
    """Return the place that a user names; raises UserError for none. `plain`: http is good enough."""
    kind, _, rest = text.partition(":")
    if len(text) > MAX_LENGTH or not text.isprintable() or kind not in ("file", "oci", "github"):
        raise UserError(f"{text[:200]!a} is no place for releases", hint=f"there are {KINDS}")
    if kind == "file":
        return _directory(text, rest)
    return _oci(text, rest, plain=plain) if kind == "oci" else _github(text, rest)


def _directory(text: str, rest: str) -> Place:
    from guestforge.publish.directory import Directory  # noqa: PLC0415 - a directory needs nothing of the network

    path = rest.removeprefix("//") if rest.startswith("///") else rest
    if not path:
        raise UserError(f"{text} names no directory", hint="such as file:/srv/releases")
    return Directory(Path(path).absolute())


def _oci(text: str, rest: str, *, plain: bool) -> Place:
    from guestforge.publish.oci import OciTag  # noqa: PLC0415 - as above

    found = _OCI.fullmatch(rest.removeprefix("//"))
    if not found or not rest.startswith("//"):
        hint = "such as oci://registry.example/guests/minimal:1.4.0; a tag takes no +, and names are in lower case"
        raise UserError(f"{text} names no tag of a registry", hint=hint)
    return OciTag(found["host"], found["repository"], found["tag"], plain=plain)


def _github(text: str, rest: str) -> Place:
    from guestforge.publish.github import GithubReleases  # noqa: PLC0415 - as above

    found = _GITHUB.fullmatch(rest)
    if not found or ".." in found["name"] or found["name"] == ".":
        raise UserError(f"{text} names no repository of GitHub", hint="such as github:owner/repository")
    return GithubReleases(found["owner"], found["name"], found["tag"] or "")
