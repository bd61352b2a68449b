"""Reads recipes, and says of a wrong one which file, which key and which line."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from guestforge.core.errors import UserError
from guestforge.core.files import read_text
from guestforge.project.layout import RECIPES
from guestforge.project.models import Guest, Kernel, Model, Rootfs

M = TypeVar("M", bound=Model)
Location = tuple[int | str, ...]

Folders = Sequence[Path]  # one after the other is searched for a name
OURS: Final[Folders] = (RECIPES,)
KINDS: Final[Mapping[type[Model], str]] = {Guest: "guests", Kernel: "kernels", Rootfs: "rootfs"}
MAX_BYTES = 1024 * 1024


def load_guest(name: str, recipes: Folders = OURS) -> Guest:
    """Read guests/NAME.toml; raises UserError for what is wrong with it."""
    return load_file(Guest, find(Guest, name, recipes))


def load_kernel(name: str, recipes: Folders = OURS) -> Kernel:
    """Read kernels/NAME.toml; raises UserError for what is wrong with it."""
    return load_file(Kernel, find(Kernel, name, recipes))


def load_rootfs(name: str, recipes: Folders = OURS) -> Rootfs:
    """Read rootfs/NAME.toml; raises UserError for what is wrong with it."""
    return load_file(Rootfs, find(Rootfs, name, recipes))


def find(model: type[Model], name: str, recipes: Folders) -> Path:
    """Return where a recipe is; raises UserError, with the nearest name, where there is none."""
    folders = [folder / KINDS[model] for folder in recipes]
    if Path(name).name != name:
        where = " and ".join(map(str, folders))
        raise UserError(f"no recipe {name!r}: a name is wanted, not a path", hint=f"recipes are in {where}")
    paths = [folder / f"{name}.toml" for folder in folders]
    for path in paths:
        if os.path.lexists(path):
            return path
    raise _missing(model, name, recipes, paths)


def names(model: type[Model], recipes: Folders = OURS) -> list[str]:
    """Return the names of the recipes of a kind."""
    return sorted({path.stem for folder in recipes for path in (folder / KINDS[model]).glob("*.toml")})


def nearest(name: str, there: Sequence[str]) -> str:
    """Return a hint for a name that is not there: the one that was meant, or all that are."""
    near = difflib.get_close_matches(name, there, n=1)
    return f"did you mean {near[0]}?" if near else f"there are: {', '.join(there) or 'none'}"


def parse(model: type[M], text: str, where: str) -> M:
    """Parse a recipe's text; `where` is the file's name in messages. Raises UserError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise UserError(f"{where}: not TOML: {e}") from e
    except RecursionError as e:
        raise UserError(f"{where}: not TOML: nested too deeply") from e
    try:
        # through JSON, because there an array is a strict tuple; TOML's dates have no place in a recipe
        return model.model_validate_json(json.dumps(data, default=lambda _: None))
    except ValidationError as e:
        raise _explain(model, e, text, where) from e


def load_file(model: type[M], path: Path) -> M:
    """Read a TOML file of a model; raises UserError for what is wrong with it."""
    return parse(model, read_text(path, MAX_BYTES, "recipe"), str(path))


def _missing(model: type[Model], name: str, recipes: Folders, paths: list[Path]) -> UserError:
    message = f"no recipe {name!r}: there is no {' and no '.join(map(str, paths))}"
    return UserError(message, hint=nearest(name, names(model, recipes)))


def _explain(model: type[Model], error: ValidationError, text: str, where: str) -> UserError:
    """Make one error of all that is wrong: a line for each, with the key and its line."""
    problems, hint = [], None
    for problem in error.errors(include_url=False):
        location = _without_tags(problem["loc"])
        key = ".".join(map(str, location)) or "(the whole file)"
        line = line_of(text, location)
        place = f"{where}:{line}" if line else where
        if problem["type"] == "extra_forbidden":
            problems.append(f"{place}: unknown key {key}")
            hint = hint or _nearest_key(model, location)
        elif problem["type"] == "missing":
            problems.append(f"{where}: the key {key} is missing")
        else:
            problems.append(f"{place}: {key}: {problem['msg']}")
    return UserError("\n".join(problems), hint=hint or "docs/recipes.md has every key")


def _without_tags(location: Location) -> Location:
    """Drop the parts that pydantic adds for its own types (`function-after[...]`)."""
    return tuple(part for part in location if isinstance(part, int) or "[" not in part)


def _nearest_key(model: type[Model], location: Location) -> str:
    fields: Any = model
    for part in location[:-1]:
        if isinstance(part, str) and part in fields.model_fields:
            fields = fields.model_fields[part].annotation
    known = list(fields.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"did you mean {near[0]}?" if near else f"the keys here are: {', '.join(known)}"


def line_of(text: str, location: Location) -> int | None:
    """Return the line on which a key is set, as far as a scan of table headers and assignments tells it."""
    keys = [part for part in location if isinstance(part, str)]
    table: list[str] = []
    found = None
    for number, line in enumerate(text.splitlines(), 1):
        # No two quantifiers of a pattern may share a character: a scan of any line is linear in its length.
        if header := re.match(r"\s*\[+([^\[\]]+)\]", line):
            table = _words(header[1])
            path = table
        elif assignment := re.match(r"([^=#\[\]]+)=", line):
            path = table + _words(assignment[1])
        else:
            continue
        if path == keys[: len(path)] and path:
            found = number
            if path == keys:
                break
    return found


def _words(dotted: str) -> list[str]:
    return [word.strip().strip("\"'") for word in dotted.split(".")]
