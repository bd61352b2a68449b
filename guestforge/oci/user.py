"""Who a container's process is: a user as an image or a command line names one, by the image's own passwd and group.

What is found is what Docker finds, GetExecUser in https://github.com/moby/sys/blob/main/user/user.go: a number is
looked for in passwd too, and who is found there has the groups that have the name as a member.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.core.errors import UserError
from guestforge.oci.inside import open_inside

LIMIT: Final = 1024 * 1024  # bytes of a passwd or group file
MAX_ID: Final = 2**32 - 2  # the last number is no id: chown(2) has it for "as it was"
MAX_GROUPS: Final = 65536  # NGROUPS_MAX, limits.h


@dataclass(frozen=True, slots=True)
class User:
    """A process's user, group and supplementary groups."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def find_user(root: Path, text: str) -> User:
    """Return the user that UID, UID:GID, NAME or NAME:GROUP means in an unpacked image; nothing is root.

    Raises UserError for a name that the image does not have, and for files that can't be read.
    """
    name, _, group = text.partition(":")
    if not text.isprintable() or ":" in group:
        raise UserError(f"user {text[:100]!r} is none", hint="UID, UID:GID, NAME or NAME:GROUP")
    who, gid, member = _user(root, name or "0")
    if group:
        return User(who, _group(root, group))
    groups = _groups_of(root, member) if member else ()
    return User(who, gid, groups)


def _user(root: Path, name: str) -> tuple[int, int, str]:
    """Return a user's number, group and name in the image, the name empty for a number that passwd has not."""
    number = _id(name)
    for found, uid, gid in _users(root):
        if (uid == number) if number is not None else (found == name):
            return uid, gid, found
    if number is None:
        raise _unknown("user", name, "passwd")
    return number, 0, ""


def _group(root: Path, name: str) -> int:
    number = _id(name)
    if number is not None:
        return number
    for found, gid, _ in _groups(root):
        if found == name:
            return gid
    raise _unknown("group", name, "group")


def _groups_of(root: Path, member: str) -> tuple[int, ...]:
    found = tuple(dict.fromkeys(gid for _, gid, members in _groups(root) if member in members))
    if len(found) > MAX_GROUPS:
        raise UserError(f"{member!r} is in {len(found)} groups of the image; Linux has at most {MAX_GROUPS}")
    return found


def _unknown(kind: str, name: str, file: str) -> UserError:
    if name.isascii() and name.lstrip("+-").isdecimal():
        return UserError(f"{kind} {name[:100]!r} is no id", hint=f"ids are 0 to {MAX_ID}")
    return UserError(f"{kind} {name[:100]!r} is not in the image's /etc/{file}", hint="a number needs no entry there")


def _users(root: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, uid and gid of each line of passwd(5) that has them."""
    for fields in _lines(root, "/etc/passwd"):
        if len(fields) >= 4 and (uid := _id(fields[2])) is not None and (gid := _id(fields[3])) is not None:
            yield fields[0], uid, gid


def _groups(root: Path) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """Yield name, gid and members of each line of group(5) that has them."""
    for fields in _lines(root, "/etc/group"):
        if len(fields) >= 3 and (gid := _id(fields[2])) is not None:
            yield fields[0], gid, tuple(fields[3].split(",")) if len(fields) > 3 else ()


def _id(text: str) -> int | None:
    """Return a number that is an id, None for any other text."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        return None
    return number if (number := int(text)) <= MAX_ID else None


def _lines(root: Path, path: str) -> list[list[str]]:
    """Return the fields of each line of a file of the image, none where there is no such file."""
    try:
        file = open_inside(root, path)
        if file is None:
            return []
        with file:
            data = file.read(LIMIT + 1)
    except FileNotFoundError:
        return []
    except OSError as e:
        raise UserError(f"{path} of the image can't be read: {e.strerror}") from e
    if len(data) > LIMIT:
        raise UserError(f"{path} of the image is larger than {LIMIT} bytes")
    return [line.strip().split(":") for line in data.decode(errors="surrogateescape").split("\n") if line.strip()]
