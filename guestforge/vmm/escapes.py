"""What of a guest's console a person's terminal gets: text, colours and the cursor's moves, and nothing that acts.

A terminal does what it reads: it sets its title or the clipboard (OSC), runs sequences of its own (DCS, APC, PM, SOS),
prints, and answers requests as if the user had typed. So what passes is listed here, and everything else is left out.

Sequences: ECMA-48, and https://invisible-island.net/xterm/ctlseqs/ctlseqs.html for what terminals made of it.
"""

import codecs
import re
from dataclasses import dataclass
from typing import Final, Literal

State = Literal["text", "escape", "sequence", "string", "string-escape", "designation"]

ESC: Final = "\x1b"
MAX_SEQUENCE: Final = 64  # characters of a control sequence; a longer one is left out
MAX_STRING: Final = 4096  # characters of a command string; what follows is text again, or the console would go silent
# the attributes of text, the cursor and the wrapping of lines are all that can outlast a guest
RESET: Final = b"\x1b[m\x1b[?25h\x1b[?7h"

_RUN: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f]+")
_CONTROLS: Final = "\a\b\t\n\r"
_ESCAPES: Final = "78DEM"  # save and restore the cursor, index, next line, reverse index
_STRINGS: Final = "PX]^_"  # DCS, SOS, OSC, PM, APC
# move, erase, insert, delete, scroll, attributes; not the erasing of what has scrolled away (3J)
_SEQUENCE: Final = re.compile(
    r"(?:\d{1,4})?(?:[;:]\d{0,4}){0,15}[@ABCDEFGHLMPSTXdfm]|[0-2]?[JK]|\?(?:7|25)[hl]", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Parser:
    """Where in a guest's output we are: what has begun, and what of it there is so far."""

    state: State = "text"
    begun: str = ""  # of a control sequence
    length: int = 0  # of a command string


def passed(parser: Parser, text: str) -> tuple[Parser, str]:
    """Return what of a text goes to the terminal, and how to go on; cut in other pieces it gives the same."""
    out: list[str] = []
    at = 0
    while at < len(text):
        if parser.state == "text" and (run := _RUN.match(text, at)):
            out.append("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in run[0]))
            at = run.end()
        else:
            parser, shown = _take(parser, text[at])
            out.append(shown)
            at += 1
    return parser, "".join(out)


def _take(parser: Parser, char: str) -> tuple[Parser, str]:
    """Take one character in that is not the text's."""
    if parser.state in ("string", "string-escape"):
        return _in_string(parser, char), ""
    if char == ESC:
        return Parser("escape"), ""
    if char < " " or "\x7f" <= char <= "\x9f":  # it breaks off what has begun
        return Parser(), char if char in _CONTROLS else ""
    if parser.state == "sequence":
        return _in_sequence(parser, char)
    if parser.state == "escape":
        return _after_escape(char)
    # after an intermediate (a character set, mostly): one more of them, or the end
    return (parser if char <= "/" else Parser()), ""


def _after_escape(char: str) -> tuple[Parser, str]:
    if char == "[":
        return Parser("sequence"), ""
    if char in _STRINGS:
        return Parser("string"), ""
    if char <= "/":
        return Parser("designation"), ""
    return Parser(), ESC + char if char in _ESCAPES else ""


def _in_sequence(parser: Parser, char: str) -> tuple[Parser, str]:
    begun = parser.begun + char
    if char >= "@":
        return Parser(), f"{ESC}[{begun}" if _SEQUENCE.fullmatch(begun) else ""
    return (Parser("sequence", begun) if len(begun) < MAX_SEQUENCE else Parser()), ""


def _in_string(parser: Parser, char: str) -> Parser:
    if parser.state == "string-escape" and char != "\\":  # not the string's end, but another sequence
        return _after_escape(char)[0] if char >= " " else Parser("string", length=parser.length + 1)
    if char in "\a\x18\x1a\x9c" or parser.state == "string-escape" or parser.length >= MAX_STRING:
        return Parser()
    return Parser("string-escape" if char == ESC else "string", length=parser.length + 1)


class TerminalFilter:
    """Filters the bytes of one console."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._parser = Parser()

    def feed(self, data: bytes) -> bytes:
        """Return what the terminal gets of the console's next bytes."""
        self._parser, text = passed(self._parser, self._decoder.decode(data))
        return text.encode()
