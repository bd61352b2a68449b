"""Files that ci.init writes into a repository: what in them is the user's, and whether the rest is as we left it.

A named block is what stands between two comment lines, and is kept whatever a new text has there:

    # guestforge: begin NAME
    # guestforge: end NAME

The first line of a file has a digest over all that is in no block. So a change elsewhere, which would be lost when the
file is written anew, is found.
"""

import difflib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from guestforge.core.errors import UserError

HEAD: Final = "# guestforge: made by ci.init, sha256 "
MAX_BYTES: Final = 1024 * 1024  # of a file; GitHub takes 512 KiB for a workflow
_HEAD: Final = re.compile(re.escape(HEAD) + r"([0-9a-f]{64})\n")
_ANY: Final = re.compile(r"\s*#\s*guestforge:(?P<rest>.*)")
_MARK: Final = re.compile(r" (?P<kind>begin|end) (?P<name>[a-z][a-z-]{0,31})\s*")
_SHOWN: Final = 20  # lines of a difference that an error tells


class MarkError(Exception):
    """The marks of blocks are wrong in a line."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A text cut at its marks: the lines outside of blocks, marks included, and the text of each block by its name."""

    outside: tuple[str, ...]
    blocks: Mapping[str, str]

    def joined(self, blocks: Mapping[str, str]) -> str:
        """Return the text with the given blocks, and its own where none is given."""
        pieces = []
        for line in self.outside:
            pieces.append(line)
            mark = _mark(line)
            if mark and mark["kind"] == "begin":
                pieces.append(blocks.get(mark["name"], self.blocks[mark["name"]]))
        return "".join(pieces)

    @property
    def digest(self) -> str:
        """The SHA-256 of what is in no block."""
        return hashlib.sha256("".join(self.outside).encode()).hexdigest()


def parse(text: str, first: int = 1) -> Parts:
    """Cut a text at its marks; its first line has the given number. Raises MarkError with the line that is wrong."""
    outside: list[str] = []
    blocks: dict[str, str] = {}
    inside: tuple[str, int] | None = None
    for number, line in enumerate(text.splitlines(keepends=True), first):
        mark = _mark(line, number)
        if mark is None and inside:
            blocks[inside[0]] += line
            continue
        if mark:
            inside = _step(mark, number, inside, blocks)
        outside.append(line)
    if inside:
        raise MarkError(f"line {inside[1]}: the block {inside[0]} has no end")
    return Parts(tuple(outside), blocks)


def _mark(line: str, number: int = 0) -> re.Match[str] | None:
    found = _ANY.fullmatch(line.rstrip("\n"))
    if found is None:
        return None
    mark = _MARK.fullmatch(found["rest"])
    if mark is None:
        raise MarkError(f"line {number}: it is neither `# guestforge: begin NAME` nor `# guestforge: end NAME`")
    return mark


def _step(
    mark: re.Match[str], number: int, inside: tuple[str, int] | None, blocks: dict[str, str]
) -> tuple[str, int] | None:
    """Return which block we are in after a mark, with the line where it began; a new one is added to the blocks."""
    name = mark["name"]
    if mark["kind"] == "end":
        if inside is None or inside[0] != name:
            raise MarkError(f"line {number}: the block {name} ends, and has not begun")
        return None
    if inside:
        raise MarkError(f"line {number}: the block {name} begins within the block {inside[0]}")
    if name in blocks:
        raise MarkError(f"line {number}: there is a block {name} already")
    blocks[name] = ""
    return name, number


def made(text: str, old: str | None, where: str, template: str) -> str:
    """Return what a file is to hold: a new text with the blocks of the old one, where there is one.

    Raises UserError, which names the file or the template, for an old text that is not as we left it but for its
    blocks, and for a new one without a place for a block.
    """
    try:
        new = parse(text)
    except MarkError as e:
        raise UserError(f"{template}: {e}", hint="docs/ci.md tells of blocks") from e
    before = _ours(old, new, where) if old is not None else None
    kept = before.blocks if before else {}
    if lost := [name for name in kept if name not in new.blocks and kept[name].strip()]:
        message = f"{where}: {template} has no block {lost[0]}, and what is in it would be lost"
        raise UserError(message, hint="move it to another block, or away")
    return f"{HEAD}{new.digest}\n{new.joined(kept)}"


def _ours(old: str, new: Parts, where: str) -> Parts:
    """Return the parts of a file that we have written; raises UserError for one that is not as we left it."""
    head = _HEAD.match(old)
    if head is None:
        hint = "move it away, run ci.init again, and put what you need of it into the blocks of the new file"
        raise UserError(f"{where}: ci.init has not made this file, and does not overwrite it", hint=hint)
    try:
        found = parse(old[head.end() :], first=2)
    except MarkError as e:
        hint = "put the marks back as they were (git diff has them), or move the file away and run ci.init again"
        raise UserError(f"{where}: {e}", hint=hint) from e
    if found.digest != head[1]:
        blocks = ", ".join(new.blocks)
        raise UserError(
            f"{where}: something was changed outside of its blocks, and would be lost",
            hint=f"undo it or move it into a block ({blocks}), or move the file away and run ci.init again",
            excerpt="\n".join(_difference(found, new)),
        )
    return found


def _difference(found: Parts, new: Parts) -> Iterator[str]:
    """Yield the first lines in which a file differs from what would be written."""
    lines = (
        line.rstrip("\n")[:200]
        for line in difflib.unified_diff(found.outside, new.outside, "what is there", "what is written", n=0)
    )
    for _, line in zip(range(_SHOWN), lines, strict=False):
        yield line
