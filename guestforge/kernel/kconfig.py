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
    entry: tuple[str, int, list[str]] | None = None
    for number, line in enumerate(_joined(text), 1):
        stripped = line.rstrip()
        if not stripped or ((condition := _DEPENDS.fullmatch(stripped)) is None and stripped[0] in " \t#"):
            continue
        if condition is not None:
            (entry[2] if entry else blocks[-1] if blocks else []).append(condition[1])
            continue
        if entry and entry[0] in wanted:
            yield entry[0], Definition(file, entry[1], (*(c for block in blocks for c in block), *entry[2]))
        entry = None
        if match := _ENTRY.match(stripped):
            entry = (match[2], number, [])
        elif match := _BLOCK.match(stripped):
            blocks.append([match[2]] if match[1] == "if" else [])
        elif _END.match(stripped) and blocks:
            blocks.pop()
    if entry and entry[0] in wanted:
        yield entry[0], Definition(file, entry[1], (*(c for block in blocks for c in block), *entry[2]))


def _joined(text: str) -> Iterator[str]:
    """Yield a line for each line of the text; one that goes on with a backslash comes whole, then blanks."""
    held, empty = "", 0
    for line in text.split("\n"):
        if line.endswith("\\"):
            held, empty = held + line[:-1] + " ", empty + 1
            continue
        yield held + line
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
