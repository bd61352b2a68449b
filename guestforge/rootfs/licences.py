"""Which licence a text is, by SPDX's name of it: whole texts alone are known, and what differs by a word is not.

A text is compared by the SHA-256 of its words, without what may differ: the title, the lines that say whose the
copyright is, how conditions are numbered, and who is named in a BSD licence's disclaimer. The names are those of
https://spdx.org/licenses/. `words` of a text that is to be added gives what is digested.
"""

import hashlib
import re
from typing import Final

LIMIT: Final = 256 * 1024  # bytes; the longest of them, the GPL, has 35,000

# The GPL and its like are not among them: their text does not tell `-only` from `-or-later`.
KNOWN: Final = {
    # with the appendix on how to apply it in its two forms, and without
    "f86c45fc72b043272de5d765793567a95363a0016be29aaee3c6a6d8b0ca5532": "Apache-2.0",
    "94c521d5210d4b1c2956396231ea833c03909a1ed64e82ebbd2d749a3da9f360": "Apache-2.0",
    "95ebafaabf80c10ce0c02d6506b3c942348da0561e2d2af910f930ef055bc343": "Apache-2.0",
    "654bea63fccdd48bbde18b50d387db2989d6918072004f8fa1bca2611f61b321": "BSD-2-Clause",
    "8a8623b1ef9669966dc37299f3405a2208adc4bc6f21386b8e6ab625d935ea29": "BSD-3-Clause",
    "2b86a2b5d677413d0669f2fecf765eeea32409878799e49c4ca1753a0084ffc9": "ISC",
    "7d382b2600df4d55ffbcfedf3e145d46c8653a36b382dd0a7d6b0c94819081e4": "MIT",
    "0c0e3b102fe354b40b30575408125b66b59d97633c01ed2931e85eace6bac49a": "MPL-2.0",
}

_TITLE: Final = re.compile(
    r"^\W*(the )?((new|simplified|modified) )?(mit|isc|bsd|([23][ -]clause )bsd|bsd [23][ -]clause)"
    r"( style)? licen[cs]e( \((mit|isc|\W*new bsd\W*)\))?\W*$"
)
_COPYRIGHT: Final = re.compile(
    r"^\W*((portions )?copyright( the | by |.*(\d{4}|yyyy|\(c\)|©))|\(c\) +\d{4}|all rights reserved)"
)
_NUMBER: Final = re.compile(r"^\W*(\(?\d\)|\d\.|[a-d]\.|\(?[a-d]\))\s")
_NAMES: Final = (
    (re.compile(r"neither the names? of .{1,200}? nor the names? of .{1,200}? may be used"), "neither may be used"),
    (re.compile(r"neither the names? of .{1,200}? may be used"), "neither may be used"),
    (re.compile(r"provided by .{1,200}? as is"), "provided as is"),
    (re.compile(r"in no event shall .{1,200}? be liable"), "in no event be liable"),
)


def words(text: str) -> str:
    """Return the words of a licence by which it is compared."""
    kept = []
    for line in text.lower().splitlines():
        if not _TITLE.match(line) and not _COPYRIGHT.match(line):
            kept.append(_NUMBER.sub("", line))
    plain = " ".join(kept).replace("https:", "http:")
    found = " ".join(re.findall(r"[a-z0-9]+", plain))
    for pattern, replacement in _NAMES:
        found = pattern.sub(replacement, found)
    return found


def licence_of(text: str) -> str | None:
    """Return SPDX's name of the licence that a text is, None for one that is not known."""
    return KNOWN.get(hashlib.sha256(words(text).encode()).hexdigest())
