"""Where the programs of a step run. A step is given a runtime, and starts nothing past it: `run` is the host's own."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Protocol

from guestforge.core import run as on_host
from guestforge.core.errors import BuildError, GuestforgeError
from guestforge.core.need import Need
from guestforge.core.run import Argv, Completed, Process


class Runtime(Protocol):
    """A place with programs. Equal ones have the same programs, and paths mean there what they mean to us."""

    @property
    def name(self) -> str:
        """What a user calls it."""

    def __hash__(self) -> int:
        """Hash it: what its programs are is asked once."""

    def meets(self, need: Need) -> bool:
        """Whether something that a step needs is there."""

    def find_tool(self, name: str) -> Path | None:
        """Return where a program is, None if it is not there."""

    def run(
        self,
        argv: Argv,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        input: bytes | None = None,
        log: Path | None = None,
        on_line: Callable[[str], None] | None = None,
        check: bool = True,
        timeout: float | None = None,
        error: type[GuestforgeError] = BuildError,
        pass_fds: Sequence[int] = (),
    ) -> Completed:
        """Run a program to its end, as `run.run` does."""

    def spawn(
        self,
        argv: Argv,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[bytes] | None = None,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        pass_fds: Sequence[int] = (),
        outlives_us: bool = False,
    ) -> AbstractContextManager[Process]:
        """Start a program for as long as a block lasts, as `run.spawn` does."""


ON_HOST: Final = "host"
INSIDE: Final = "GUESTFORGE_RUNTIME"  # set where we run in a container: what a user calls that


@dataclass(frozen=True, slots=True)
class Host:
    """This machine, or the container that we are in."""

    name: str = field(default_factory=lambda: os.environ.get(INSIDE, ON_HOST))

    run = staticmethod(on_host.run)
    spawn = staticmethod(on_host.spawn)
    find_tool = staticmethod(on_host.find_tool)
    meets = staticmethod(Need.is_met)


HOST: Final[Runtime] = Host()
