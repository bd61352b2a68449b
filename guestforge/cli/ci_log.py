"""Events in the log of a CI job: lines that fold by the steps that are being made, and errors that it marks."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from guestforge.ci.markdown import block, cell
from guestforge.cli.location import Location, locations
from guestforge.cli.platform import MOST, Platform, find_platform, harmless
from guestforge.cli.render import Log, answer
from guestforge.core.errors import CheckError
from guestforge.core.events import Answer, Began, Complained, Ended, Event, Finished, Said, Sink
from guestforge.project.folder import VARIABLE
from guestforge.project.layout import CHECKOUT

MAX_LINES: Final = 60  # of an error in a summary, the last ones


def in_ci(environment: Mapping[str, str]) -> Sink | None:
    """Return the renderer for the log of the CI system that runs us, None where none does."""
    platform = find_platform(environment)
    if platform is None:
        return None
    top = Path(environment.get("GITHUB_WORKSPACE") or environment.get("CI_PROJECT_DIR") or Path.cwd())
    project = Path(environment.get(VARIABLE) or Path.cwd())
    summary = environment.get("GITHUB_STEP_SUMMARY")
    return CiLog(platform, top, (project.absolute(), CHECKOUT, top), Path(summary) if summary else None)


class CiLog:
    """A log whose lines stand in a group, named after the steps that are being made, and open as long as these are.

    Groups can't overlap, and steps do: with each step that begins or ends another group begins. What is outside of any
    is what a reader must not miss: errors, and what became of each step.
    """

    def __init__(self, platform: Platform, top: Path, bases: Sequence[Path], summary: Path | None = None) -> None:
        """`top` is the clone's, `bases` where files may be that an error names; errors go to the summary, too."""
        self._platform = platform
        self._top = top
        self._bases = bases
        self._summary = summary
        self._lines = Log(harmless)
        self._making: list[str] = []
        self._open = False
        self._marked = 0
        self._summed = 0

    def __call__(self, event: Event) -> None:
        """Show an event."""
        match event:
            case Began():
                self._close()
                self._making.append(event.step)
            case Ended():
                if event.step in self._making:
                    self._close()
                    self._making.remove(event.step)
            case Complained():
                self._close()
                self._complain(event)
            case Finished():
                self._close()
                self._lines(event)
            case _ if isinstance(event, Answer):
                print(harmless(answer(event)))
            case _:
                self._lines_of_a_group(event)

    def _lines_of_a_group(self, event: Event) -> None:
        if self._making and not self._open:
            self._command(self._platform.open(", ".join(self._making)))
            self._open = True
        self._lines(event)

    def _close(self) -> None:
        if self._open:
            self._command(self._platform.close())
            self._open = False

    def _complain(self, event: Complained) -> None:
        for message, location in self._marks(event):
            if self._marked < MOST and (line := self._platform.error(message, location)):
                self._marked += 1
                self._command(line)
        self._lines(event)
        # what a check says is in its report, which ci.summary reads
        if self._summary and event.exit_code != CheckError.exit_code and self._summed < MOST:
            self._sum_up(self._summary, event)

    def _marks(self, event: Complained) -> list[tuple[str, Location | None]]:
        """Return the annotations of an error: one for each place that it names, or one without a place.

        What a check has found may have a guest's lines, and none of those is a place.
        """
        before = f"{event.subject}: " if event.subject else ""
        if event.exit_code != CheckError.exit_code:
            found = locations(event.report, self._top, self._bases)
            marks: list[tuple[str, Location | None]] = [(f"{before}{text}", location) for location, text in found]
            if marks:
                return marks
        return [(f"{before}{event.message}", None)]

    def _sum_up(self, path: Path, event: Complained) -> None:
        self._summed += 1
        lines = event.report.split("\n")[-MAX_LINES:]
        text = f"### ❌ {cell(event.subject or 'error')}\n{block(line for line in lines if line.strip())}\n\n"
        try:
            with path.open("a") as file:
                file.write(text)
        except OSError as e:
            self._lines(Said(f"{path}: {e.strerror}"))

    def _command(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
