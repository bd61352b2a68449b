"""Text as Markdown that is nothing but that text: it may come from a guest, and be read as a table, a link or HTML."""

import re
from collections.abc import Iterable
from typing import Final

from guestforge.check.table import printable

# What Markdown, and GitHub's and GitLab's additions to it, give a meaning to: references, mentions, labels, emoji, math
_MEANS: Final = re.compile(r"[\\`*_{}\[\]()<>#+!|&~@:$^=]")
_TICKS: Final = re.compile(r"`+")
DETAIL: Final = 300  # characters of one cell
LINE: Final = 300  # characters of a line of a console


def cell(text: str) -> str:
    """Return a text as one cell of a table, cut where it is long. A character that means something is an entity."""
    plain = printable(text)
    cut = plain if len(plain) <= DETAIL else f"{plain[: DETAIL - 3]}..."
    # a host's name alone would be a link too
    return _MEANS.sub(lambda found: f"&#{ord(found[0])};", cut).replace("www.", "www&#46;")


def row(cells: Iterable[str]) -> str:
    """Return a row of a table, of cells that are Markdown."""
    return f"| {' | '.join(cells)} |"


def block(lines: Iterable[str]) -> str:
    """Return lines as they are, in a fence that is longer than any in them."""
    shown = [printable(line)[:LINE] for line in lines]
    longest = max((len(ticks) for line in shown for ticks in _TICKS.findall(line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}text", *shown, fence])
