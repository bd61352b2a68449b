"""What a kernel tree's Kconfig files say about an option: where it is defined and what it depends on.

Enough to tell a person why an option was dropped. It solves nothing: the symbols of a condition are looked up in the
final configuration one by one. Language: https://docs.kernel.org/kbuild/kconfig-language.html
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from guestforge.kernel.dotconfig import NOT_SET, Config

MAX_REASONS = 8
_ENTRY = re.compile(r"(config|menuconfig)\s+(\w+)")
_BLOCK = re.compile(r"(if|menu|choice)\b\s*(.*)")
_END = re.compile(r"end(if|menu|choice)\b")
_DEPENDS = re.compile(r"\s+depends\s+on\s+(.+)")
_SYMBOL = re.compile(r"\b[A-Z][A-Z0-9_]+\b")


@dataclass(frozen=True, slots=True)
class Definition:
    """One place where an option is defined, with every condition that is written there or around it."""

    file: str
    line: int
    conditions: tuple[str, ...]


def explain(tree: Path, kernel_arch: str, options: Iterable[str], config: Config) -> Mapping[str, list[str]]:
    """Return lines that say why options may have been dropped; names without `CONFIG_`."""
    definitions: dict[str, list[Definition]] = {option: [] for option in options}
    for path in kconfig_files(tree, kernel_arch):
        text = path.read_text(errors="replace")
        for name, definition in parse(text, path.relative_to(tree).as_posix(), definitions):
            definitions[name].append(definition)
    return {option: _reasons(found, config) for option, found in definitions.items()}


def kconfig_files(tree: Path, kernel_arch: str) -> Iterator[Path]:
    """Yield a tree's Kconfig files, of the architectures only the one."""
    for directory, names, files in os.walk(tree):
        here = Path(directory)
        if here == tree:
            names[:] = [name for name in names if name not in ("Documentation", "tools", "scripts")]
        elif here == tree / "arch":
            names[:] = [name for name in names if name == kernel_arch]
        names.sort()
        yield from (here / name for name in sorted(files) if name.startswith("Kconfig"))


def parse(text: str, file: str, wanted: Iterable[str]) -> Iterator[tuple[str, Definition]]:
    """Yield the wanted options that a Kconfig file defines."""
    blocks: list[list[str]] = []  # conditions of the blocks that we are in
    for name, line, own in _entries(text, blocks):
        if name in wanted:
            yield name, Definition(file, line, (*(condition for block in blocks for condition in block), *own))


def _entries(text: str, blocks: list[list[str]]) -> Iterator[tuple[str, int, list[str]]]:
    """Yield each entry's name, line and own conditions at its end, while `blocks` are those around it."""
    name, start = "", 0
    conditions: list[str] = []  # of the entry or block that the last line belongs to
    for number, line in enumerate([*_joined(text), "end"], 1):
        if match := _DEPENDS.fullmatch(line):
            conditions.append(" ".join(match[1].split()))
        if not line or line[0] in " \t#":
            continue
        if name:
            yield name, start, conditions
        name, start, conditions = "", number, []
        if match := _ENTRY.match(line):
            name = match[2]
        elif match := _BLOCK.match(line):
            blocks.append(conditions)
            if match[1] == "if":
                conditions.append(match[2])
        elif _END.match(line) and blocks:
            blocks.pop()


def _joined(text: str) -> Iterator[str]:
    """Yield a line for each line of the text; one that goes on with a backslash comes whole, then blanks."""
    held, empty = "", 0
    for line in text.split("\n"):
        if line.endswith("\\"):
            held, empty = held + line[:-1] + " ", empty + 1
            continue
        yield (held + line).rstrip()
        yield from [""] * empty
        held, empty = "", 0


def _reasons(definitions: list[Definition], config: Config) -> list[str]:
    if not definitions:
        return ["no Kconfig file of this kernel defines it for this architecture"]
    lines = []
    for found in definitions[:MAX_REASONS]:
        unmet = _unset(found.conditions, config)
        what = " && ".join(f"({text})" if "||" in text else text for text in found.conditions) or "nothing"
        missing = f"; not set: {', '.join(unmet)}" if unmet else ""
        lines.append(f"{found.file}:{found.line} depends on {what}{missing}")
    return lines


def _unset(conditions: Iterable[str], config: Config) -> list[str]:
    symbols = dict.fromkeys(symbol for text in conditions for symbol in _SYMBOL.findall(text))
    return [symbol for symbol in symbols if config.get(f"CONFIG_{symbol}", NOT_SET) == NOT_SET]
