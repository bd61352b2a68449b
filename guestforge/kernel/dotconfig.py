"""The format of a kernel's .config, which fragments share: `CONFIG_X=value` and `# CONFIG_X is not set`.

https://docs.kernel.org/kbuild/kconfig.html
"""

import re
from collections.abc import Mapping
from pathlib import Path

from guestforge.core.errors import BuildError

MAX_BYTES = 4 * 1024 * 1024  # a distribution's configuration has 300 kB
NOT_SET = "n"
_NAME = r"CONFIG_[A-Za-z0-9_]{1,120}"
# y, m, n; decimal and hexadecimal numbers; a string in which a quote or a backslash is escaped
_VALUE = r'[ymn]|-?[0-9]{1,20}|0[xX][0-9a-fA-F]{1,16}|"(?:[^"\\\n]|\\.){0,2048}"'
_SET = re.compile(rf"({_NAME})=({_VALUE})")
_UNSET = re.compile(rf"# ({_NAME}) is not set")
_UNSET_LIKE = re.compile(r"#\s*CONFIG_\w+\s+is\s+not\s+set", re.IGNORECASE)

Config = Mapping[str, str]


def parse_line(line: str) -> tuple[str, str] | None:
    """Return a line's option and value (`n` for not set), None for a comment or a blank; raises ValueError."""
    if match := _SET.fullmatch(line) or _UNSET.fullmatch(line):
        return match[1], match[2] if match.lastindex == 2 else NOT_SET
    if not line.strip() or (line.startswith("#") and not _UNSET_LIKE.match(line)):
        return None
    raise ValueError("not `CONFIG_X=value`, `# CONFIG_X is not set` or a comment")


def format_line(option: str, value: str) -> str:
    """Return the line that gives an option its value."""
    return f"# {option} is not set" if value == NOT_SET else f"{option}={value}"


def parse_dotconfig(text: str, where: str) -> dict[str, str]:
    """Return the options of a .config with their values as it spells them, `n` for those not set.

    Raises BuildError with `where` and the line for what is no .config.
    """
    config = {}
    for number, line in enumerate(text.split("\n"), 1):
        try:
            pair = parse_line(line)
        except ValueError as e:
            raise BuildError(f"{where}:{number}: {e}", excerpt=line[:200]) from e
        if pair:
            config[pair[0]] = pair[1]
    return config


def format_dotconfig(config: Config) -> str:
    """Return a .config's text."""
    return "".join(f"{format_line(option, value)}\n" for option, value in config.items())


def read_dotconfig(path: Path) -> dict[str, str]:
    """Read a .config; raises BuildError for what is none."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise BuildError(f"{path}: larger than {MAX_BYTES} bytes; this is no kernel configuration")
    return parse_dotconfig(data.decode(errors="replace"), str(path))


def same_value(one: str, other: str) -> bool:
    """Whether two spellings are the same value: 0x10 and 16 are, strings are compared as they stand."""
    return one == other or ((number := _number(one)) is not None and number == _number(other))


def _number(value: str) -> int | None:
    try:
        return int(value, 16 if value[:2].lower() == "0x" else 10)
    except ValueError:
        return None
