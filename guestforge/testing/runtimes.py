"""Runtimes that note what is started, or have it otherwise than this host."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from guestforge.core.need import Need
from guestforge.core.run import Argv, Completed, Process
from guestforge.core.runtime import HOST


class Noting:
    """The host, but for what is given; `started` has the first word of each program that ran here."""

    name = "host"

    def __init__(
        self,
        *,
        find_tool: Callable[[str], Path | None] = HOST.find_tool,
        run: Callable[..., Completed] = HOST.run,
        spawn: Callable[..., AbstractContextManager[Process]] = HOST.spawn,
    ) -> None:
        self.started: list[str] = []
        self._find_tool, self._run, self._spawn = find_tool, run, spawn

    def meets(self, need: Need) -> bool:
        return HOST.meets(need)

    def find_tool(self, name: str) -> Path | None:
        return self._find_tool(name)

    def run(self, argv: Argv, **how: Any) -> Completed:
        self.started.append(str(argv[0]))
        return self._run(argv, **how)

    def spawn(self, argv: Argv, **how: Any) -> AbstractContextManager[Process]:
        self.started.append(str(argv[0]))
        return self._spawn(argv, **how)


def nowhere() -> Noting:
    """A runtime without a program."""
    return Noting(find_tool=lambda _: None)
