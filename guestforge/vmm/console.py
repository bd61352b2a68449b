"""A guest's console: kept whole in a log, cleaned line by line, and read for what no healthy guest prints.

The guest is not trusted: what it prints may hold escape sequences, have no line breaks, or never end.
"""

import os
import re
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.vmm.faults import STAMP, TAB, Kind, classify

MAX_LINE: Final = 4096  # bytes; a longer line is taken in pieces
HEAD_LINES: Final = 1000  # what is kept in memory: the first lines,
TAIL_LINES: Final = 2000  # and the last ones
MAX_FAULTS: Final = 200
MAX_LOG: Final = 64 * 1024 * 1024  # bytes of console.log; a guest must not fill the host's disk
CUT: Final = b"\n[guestforge: the guest printed more than 64 MiB; the rest is not kept]\n"
BEFORE: Final = 6  # lines of an excerpt before the one that counts
AFTER: Final = 24  # and after it

# ECMA-48: control sequences (CSI), command strings (OSC, DCS, PM, APC, SOS) and two-character escapes
_ESCAPES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?", re.DOTALL
)
_BREAKS: Final = re.compile(rb"[\r\n]+")


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that no healthy guest prints. `number` counts the console's lines from 0."""

    kind: Kind
    line: str
    number: int


def clean(data: bytes) -> str:
    """Return a guest's bytes as text that is safe on a terminal: no escape sequences, no control characters.

    What is not UTF-8 becomes U+FFFD; control, format (such as bidirectional overrides) and unassigned characters too.
    The kernel prints no escape sequences: one in its messages begins in a name that a container has given, and must not
    take the kernel's own words with it.
    """
    text = data.decode("utf-8", "replace")
    begin = stamp.end() if (stamp := STAMP.search(text)) else len(text)
    text = (_ESCAPES.sub("", text[:begin]) + text[begin:]).replace("\t", TAB)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class Console:
    """What a console has shown so far. Not for two threads at once."""

    def __init__(self, log: Path | None) -> None:
        self.faults: list[Fault] = []
        self.count = 0  # lines so far
        self.log_error: OSError | None = None  # why the log is not whole
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644) if log else None
        self._room = MAX_LOG
        self._partial = b""
        self._head: list[str] = []
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    def feed(self, data: bytes) -> list[str]:
        """Take in what the console printed; return the lines that are whole now, cleaned."""
        self._keep(data)
        *lines, rest = _BREAKS.split(self._partial + data)
        whole = len(rest) - len(rest) % MAX_LINE if len(rest) > MAX_LINE else 0
        self._partial = rest[whole:]
        return self._add([*lines, rest[:whole]])

    def close(self) -> list[str]:
        """Close the log; return an unfinished last line."""
        last, self._partial = self._partial, b""
        if self._log is not None:
            os.close(self._log)
            self._log = None
        return self._add([last])

    def lines(self) -> list[str]:
        """Return the lines that are kept in memory: the first HEAD_LINES and the last TAIL_LINES."""
        return [*self._head, *self._tail]

    def find(self, text: str) -> str | None:
        """Return the first line with a text."""
        return next((line for line in self.lines() if text in line), None)

    def tail(self, count: int) -> str:
        """Return the last lines."""
        return "\n".join(self.lines()[-count:] if count > 0 else [])

    def excerpt(self, fault: Fault) -> str:
        """Return the lines around a fault, as far as they are here yet."""
        kept = self.lines()
        gone = self.count - len(kept)  # lines between the first and the last ones that are kept
        if len(self._head) <= fault.number < len(self._head) + gone:  # a guest that prints without end
            return fault.line
        at = fault.number if fault.number < len(self._head) else fault.number - gone
        return "\n".join(kept[max(0, at - BEFORE) : at + AFTER + 1])

    def _keep(self, data: bytes) -> None:
        if self._log is None or self._room < 0 or self.log_error:
            return
        try:
            _write(self._log, data[: self._room])
            self._room -= len(data)
            if self._room < 0:
                _write(self._log, CUT)
        except OSError as e:
            self.log_error = e

    def _add(self, lines: list[bytes]) -> list[str]:
        pieces = [line[at : at + MAX_LINE] for line in lines for at in range(0, len(line), MAX_LINE)]
        texts = [text for piece in pieces if (text := clean(piece))]
        for text in texts:
            self._line(text)
        return texts

    def _line(self, line: str) -> None:
        kind = classify(line)
        if kind and len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(kind, line, self.count))
        (self._head if len(self._head) < HEAD_LINES else self._tail).append(line)
        self.count += 1


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
