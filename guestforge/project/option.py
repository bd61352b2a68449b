"""What an option is: a field of a record, declared once with its help and its reader, and read from a command line.

Only the standard library and the errors are imported: each start of `./invoke` pays for this module.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from guestforge.core.errors import UserError

Given = str | bool | tuple[str, ...] | None  # what a command line has of an option
Reader = Callable[[str, str], Any]  # from how a user names it, and what he gave; raises UserError
Otherwise = Callable[[Mapping[str, Any]], Any]  # from the record's fields before it, for a user who gives none
Record = TypeVar("Record")

_KEY: Final = "option"


@dataclass(frozen=True, slots=True)
class Option:
    """What a user reads of an option and types for it. One without a reader is a switch.

    `many`: it takes a comma list, or is given several times. `each`: it is given as often as a user likes, and each
    value is read by itself. `place`: it is given without its name, and must be. `rest`: it is all words after a `--`.
    """

    name: str
    help: str
    read: Reader | None
    otherwise: Otherwise | None = None
    many: bool = False
    each: bool = False
    place: bool = False
    rest: bool = False

    @property
    def shown(self) -> str:
        """How messages name it."""
        return self.name.upper() if self.place else f"--{self.name}"


def option(
    help_: str,
    read: Reader | None = None,
    *,
    name: str = "",
    many: bool = False,
    each: bool = False,
    place: bool = False,
    rest: bool = False,
    otherwise: Otherwise | None = None,
    **default: object,
) -> Any:  # noqa: ANN401 - a field of whatever type, as of dataclasses.field
    """Declare a field of a record of options: `default` or `default_factory` as dataclasses take them.

    They hold for whoever makes a record in Python; `otherwise`, where there is one, for a user who gives nothing. The
    name is the field's where none is given.
    """
    if not default and not place:
        default = {"default": () if each or rest else False if read is None else None}
    declared = Option(name, help_, read, otherwise, many, each, place, rest)
    return dataclasses.field(metadata={_KEY: declared}, **cast("dict[str, Any]", default))


def options_of(record: type) -> dict[str, Option]:
    """Return the options that a record is made of, by their fields."""
    return dict(_declared(record))


def _declared(record: type) -> Iterator[tuple[str, Option]]:
    for field in dataclasses.fields(record):
        declared: Option = field.metadata[_KEY]
        yield field.name, dataclasses.replace(declared, name=declared.name or field.name.replace("_", "-"))


def read(record: type[Record], given: Mapping[str, Given]) -> Record:
    """Make a record of what was given, by option's name; one that is not there, or None, was not given.

    Raises UserError for a value that its option does not take.
    """
    values: dict[str, Any] = {}
    for field, declared in _declared(record):
        value = given.get(declared.name)
        if isinstance(value, tuple):
            values[field] = tuple(declared.read(declared.shown, each) if declared.read else each for each in value)
        elif value is not None:
            values[field] = declared.read(declared.shown, str(value)) if declared.read else bool(value)
        elif declared.otherwise:
            values[field] = declared.otherwise(values)
    return record(**values)


# Readers


def text(_: str, value: str) -> str:
    """Return a text."""
    return value


def text_or_none(_: str, value: str) -> str | None:
    """Return a text; an empty one is none."""
    return value or None


def texts(shown: str, value: str) -> tuple[str, ...]:
    """Return a comma list of texts, each once."""
    found = tuple(dict.fromkeys(word for piece in value.split(",") if (word := piece.strip())))
    if not found:
        raise UserError(f"{shown} {value!r}: it names nothing")
    return found


def path(_: str, value: str) -> Path:
    """Return a path, from the directory in which the user called us."""
    return Path(value).absolute()


def number(low: float, high: float) -> Reader:
    """Return a reader of numbers within bounds."""

    def reader(shown: str, value: str) -> float:
        try:
            found = float(value)
        except ValueError:
            found = float("nan")
        if not low <= found <= high:  # nan is never between
            raise UserError(f"{shown} {value}: not a number from {low:g} to {high:g}")
        return found

    return reader


def whole(low: int, high: int) -> Reader:
    """Return a reader of whole numbers within bounds."""

    def reader(shown: str, value: str) -> int:
        found: float = number(low, high)(shown, value)
        if found != int(found):
            raise UserError(f"{shown} {value}: not a whole number")
        return int(found)

    return reader


_UNITS: Final = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZES: Final = {"": 1, "b": 1, **_UNITS, **{f"{unit}b": size for unit, size in _UNITS.items()}}


def size(shown: str, value: str) -> int:
    """Return a number of bytes, written as container engines have it: 512m is 512 MiB."""
    digits = value.rstrip("bBkKmMgGtT")
    unit = value[len(digits) :].lower()
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 15 or unit not in _SIZES:
        raise UserError(f"{shown} {value}: not a number of bytes, such as 512m or 2g")
    return int(digits) * _SIZES[unit]


MAX_VERSION: Final = 128  # characters


def version(shown: str, value: str) -> str:
    """Return a version by SemVer 2.0, as it was given."""
    import semver

    if len(value) > MAX_VERSION or not semver.Version.is_valid(value):
        hint = "such as 1.4.0 or 2.0.0-rc.1, without a v before it: https://semver.org"
        raise UserError(f"{shown} {value[:MAX_VERSION]}: not a version by SemVer", hint=hint)
    return value


def one_of(choices: Sequence[str]) -> Reader:
    """Return a reader of one of the choices."""
    return lambda shown, value: known(shown, value, choices)


def some_of(choices: Sequence[str]) -> Reader:
    """Return a reader of a comma list of the choices."""

    def reader(shown: str, value: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(known(shown, word.strip(), choices) for word in value.split(",")))

    return reader


def known(shown: str, value: str, choices: Sequence[str]) -> str:
    """Return a value that is one of the choices; raises UserError with them and the nearest for another."""
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        hint = f"did you mean {near[0]}?" if near else None
        raise UserError(f"{shown} {value}: it takes {', '.join(choices)}", hint=hint)
    return value
