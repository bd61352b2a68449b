"""Reads the JSON documents of an image, which anybody may have written: bounded, and each value of its type.

https://github.com/opencontainers/image-spec: image-layout.md, manifest.md, config.md.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from guestforge.core.errors import UserError
from guestforge.core.files import read_regular

LIMIT: Final = 4 * 1024 * 1024  # bytes of a document; what registries and skopeo take
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")

Document = Mapping[str, Any]


def read_document(path: Path, what: str) -> Document:
    """Return the JSON object that a file holds; raises UserError, in which `what` is what it is called."""
    return parse_document(_read(path, what), what)


def read_blob(layout: Path, digest: str, what: str) -> Document:
    """Return the JSON object that a blob of a layout is, found to have its digest. Raises as `read_document` does."""
    if not DIGEST.fullmatch(digest):  # which could lead anywhere
        raise UserError(f"{what} has no SHA-256 digest")
    data = _read(layout / "blobs" / "sha256" / digest.partition(":")[2], what)
    if hashlib.sha256(data).hexdigest() != digest.partition(":")[2]:
        raise UserError(f"{what} does not have its digest: the image is damaged")
    return parse_document(data, what)


def _read(path: Path, what: str) -> bytes:
    """Return a file's content, up to a byte more than is taken."""
    try:
        data = read_regular(path, LIMIT + 1)
    except OSError as e:
        raise UserError(f"{what} can't be read: {e.strerror}") from e
    if data is None:
        raise UserError(f"{what} is no file")
    return data


def parse_document(data: bytes, what: str) -> Document:
    """Return the JSON object that a text is. Raises UserError as `read_document` does."""
    if len(data) > LIMIT:
        raise UserError(f"{what} is larger than {LIMIT} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise UserError(f"{what} is not JSON") from e
    if not isinstance(found, dict):
        raise UserError(f"{what} is no JSON object")
    return found


def part(document: Document, key: str, what: str) -> Document:
    """Return an object in a document, an empty one where it is null or missing."""
    found = document.get(key)
    if not isinstance(found, dict | None):
        raise UserError(f"{what} has no object as {key!r}")
    return found or {}


def word(document: Document, key: str, what: str, limit: int) -> str:
    """Return a string in a document, an empty one where it is null or missing."""
    found = document.get(key)
    return "" if found is None else _string(found, key, what, limit)


def words(document: Document, key: str, what: str, count: int, limit: int) -> tuple[str, ...]:
    """Return a list of strings in a document, an empty one where it is null or missing."""
    found = document.get(key)
    if found is None:
        return ()
    if not isinstance(found, list):
        raise UserError(f"{what} has no list as {key!r}")
    if len(found) > count:
        raise UserError(f"{what} has {len(found)} values in {key!r}; {count} are taken")
    return tuple(_string(each, key, what, limit) for each in found)


def _string(found: object, key: str, what: str, limit: int) -> str:
    """Return what is a string that a program can be given: in UTF-8, without NUL, of a bounded length."""
    if not isinstance(found, str):
        raise UserError(f"{what} has something else than a string in {key!r}")
    try:
        size = len(found.encode())
    except UnicodeEncodeError as e:
        raise UserError(f"{what} has half a character in {key!r}") from e
    if "\0" in found:
        raise UserError(f"{what} has a NUL byte in {key!r}")
    if size > limit:
        raise UserError(f"{what} has a string of {size} bytes in {key!r}; {limit} are taken")
    return found
