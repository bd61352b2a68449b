"""How a CI system is told something in a job's log: what folds, which error is where. And how it is told nothing.

GitHub: https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands; its runner
(actions/runner, src/Runner.Common/ActionCommand.cs) takes `::` at a line's start, after blanks, and `##[` anywhere.
GitLab: https://docs.gitlab.com/ci/jobs/job_logs/#custom-collapsible-sections; its markers need a carriage return and an
escape.
"""

import itertools
import re
import time
from collections.abc import Mapping
from typing import Final, Protocol

from guestforge.check.table import printable
from guestforge.cli.location import Location

MOST: Final = 10  # annotations, and errors in a summary: GitHub shows ten errors a step
MAX_MESSAGE: Final = 4000  # characters of one
_NAME: Final = re.compile(r"[^A-Za-z0-9_]+")
_COMMAND: Final = re.compile(r"^( *):(?=:)")
_OLD_COMMAND: Final = re.compile(r"##(?=\[)")


class Platform(Protocol):
    """A CI system. What it returns are lines for its log, which nobody may change."""

    def open(self, title: str) -> str:
        """Return the line that begins a group."""

    def close(self) -> str:
        """Return the line that ends the group that was begun last."""

    def error(self, message: str, location: Location | None) -> str:
        """Return the line that marks an error; an empty one where the system has none."""


class GitHub:
    """GitHub Actions."""

    def open(self, title: str) -> str:
        """Begin a group."""
        return f"::group::{_data(harmless(title))}"

    def close(self) -> str:
        """End it."""
        return "::endgroup::"

    def error(self, message: str, location: Location | None) -> str:
        """Annotate a file's line, or the run."""
        properties = ""
        if location:
            line = f",line={location.line}" if location.line else ""
            properties = f" file={_property(str(location.file))}{line}"
        return f"::error{properties}::{_data(harmless(message)[:MAX_MESSAGE])}"


class GitLab:
    """GitLab CI, which has no annotations."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._section = ""

    def open(self, title: str) -> str:
        """Begin a section, whose name must be one of its own."""
        self._section = f"guestforge_{next(self._numbers)}_{_NAME.sub('_', title)[:60]}"
        return f"\x1b[0Ksection_start:{int(time.time())}:{self._section}\r\x1b[0K{harmless(title)}"

    def close(self) -> str:
        """End it."""
        return f"\x1b[0Ksection_end:{int(time.time())}:{self._section}\r\x1b[0K"

    def error(self, message: str, location: Location | None) -> str:
        """Return nothing: the error is told as anywhere."""
        del message, location
        return ""


def find_platform(environment: Mapping[str, str]) -> Platform | None:
    """Return the CI system that runs us, None for any other and for none."""
    if environment.get("GITHUB_ACTIONS") == "true":
        return GitHub()
    if environment.get("GITLAB_CI") == "true":
        return GitLab()
    return None


def harmless(text: str) -> str:
    """Return a text in which no line is a command to any of these systems: it may come from a guest.

    What is no printable character is written out, and a blank parts what would begin a command.
    """
    return "\n".join(_harmless(line) for line in text.split("\n"))


def _harmless(line: str) -> str:
    shown = printable(line.replace("\t", "        "))
    return _COMMAND.sub(r"\1: ", _OLD_COMMAND.sub("## ", shown))


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
