"""Jinja2 templates of a project: found as recipes are, and their errors told with file and line."""

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import jinja2

from guestforge.core.errors import UserError
from guestforge.project.load import Folders

NONE: Final[Mapping[str, Callable[..., str]]] = MappingProxyType({})


def find_template(name: str, recipes: Folders) -> Path:
    """Return the template that counts: the first of its name in folders of recipes, of which ours has it."""
    return next(path for folder in recipes if (path := folder / name).is_file())


def render_template(
    template: Path,
    values: Mapping[str, Any],
    *,
    documented: str,
    filters: Mapping[str, Callable[..., str]] = NONE,
) -> str:
    """Return a template's text with its values in it; `documented` is the page that says what it is given.

    Raises UserError, with file and line, for a template that is wrong or names what is not.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - what is made is no HTML, and all in it is the project's own
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= filters
    try:
        return environment.get_template(template.name).render(values)
    except jinja2.TemplateSyntaxError as e:
        raise UserError(f"{e.filename or template}:{e.lineno}: {e.message}") from e
    except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, OSError) as e:
        raise UserError(f"{_place(e, template)}: {e}", hint=f"{documented} has what a template is given") from e


def _place(error: Exception, template: Path) -> str:
    """Return the file and the line of a template at which it ended."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{frame.filename}:{frame.lineno}" for frame in frames if Path(frame.filename).parent == template.parent]
    return lines[-1] if lines else str(template)
