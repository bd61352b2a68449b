"""Fragments: small files of kernel options, one feature a file, which recipes choose by name.

`kernel-configs/common/<name>.conf` holds what all architectures ask for, `kernel-configs/<arch>/<name>.conf` what one
asks for besides. A name exists in either place or in both.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.core.errors import UserError
from guestforge.core.files import read_text
from guestforge.kernel.dotconfig import format_line, parse_line, same_value
from guestforge.project.layout import FRAGMENTS

OURS: Final[Sequence[Path]] = (FRAGMENTS,)
COMMON = "common"
MAX_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """An option that a fragment asks for: the value as it spells it (`n` for not set), and where it asks.

    `line` is 0 where it is no fragment that asks; `file` then is the whole place.
    """

    option: str
    value: str
    file: str
    line: int

    @property
    def place(self) -> str:
        """Where it is asked for, `file:line`."""
        return f"{self.file}:{self.line}" if self.line else self.file


def compose(names: Iterable[str], folder: str, roots: Sequence[Path] = OURS) -> tuple[Request, ...]:
    """Return what fragments ask for; `folder` is the architecture's folder in each of the `roots`.

    The first root that has a name, in either place, has it whole: nothing of that name is taken from the next.

    Raises UserError for an unknown fragment, a malformed line, and two lines about one option.
    """
    asked: dict[str, Request] = {}
    for name in dict.fromkeys(names):
        root = _root(name, folder, roots)
        for path in _files(name, folder, root):
            for request in read_fragment(path, root.parent):
                if earlier := asked.get(request.option):
                    raise _twice(earlier, request)
                asked[request.option] = request
    return tuple(asked.values())


def composed_text(requests: Iterable[Request]) -> str:
    """Return requests as one file that Kconfig reads: sorted, so that their order in the recipe changes nothing."""
    lines = sorted(format_line(request.option, request.value) for request in requests)
    return "".join(f"{line}\n" for line in lines)


def read_fragment(path: Path, base: Path) -> list[Request]:
    """Read a fragment's requests; its name in messages is relative to `base`. Raises UserError."""
    name = path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)
    return parse_fragment(read_text(path, MAX_BYTES, "fragment", name=name), name)


def parse_fragment(text: str, name: str) -> list[Request]:
    """Parse a fragment's text; raises UserError with file and line for a malformed one."""
    requests = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            pair = parse_line(line)
        except ValueError as e:
            raise UserError(f"{name}:{number}: {e}", excerpt=line[:200], hint="docs/kernels.md has the format") from e
        if pair:
            requests.append(Request(*pair, name, number))
    return requests


def _root(name: str, folder: str, roots: Sequence[Path]) -> Path:
    for root in roots:
        if any(_files(name, folder, root)):
            return root
    raise _unknown(name, folder, roots)


def _files(name: str, folder: str, root: Path) -> Iterator[Path]:
    for part in (COMMON, folder):
        path = root / part / f"{name}.conf"
        if path.is_file():
            yield path


def _unknown(name: str, folder: str, roots: Sequence[Path]) -> UserError:
    parts = [root / part for root in roots for part in (COMMON, folder)]
    there = sorted({path.stem for part in parts for path in part.glob("*.conf")})
    near = difflib.get_close_matches(name, there, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(there) or 'none'}"
    where = " or ".join(map(str, roots))
    return UserError(
        f"no fragment {name!r}: neither {COMMON}/{name}.conf nor {folder}/{name}.conf in {where}", hint=hint
    )


def _twice(earlier: Request, later: Request) -> UserError:
    how = "asked for twice" if same_value(earlier.value, later.value) else "asked for with two values"
    lines = [f"{request.place}: {format_line(request.option, request.value)}" for request in (earlier, later)]
    return UserError(
        f"{later.option} is {how}: {earlier.place} and {later.place}",
        excerpt="\n".join(lines),
        hint="an option belongs to one fragment: take one of the lines out",
    )
