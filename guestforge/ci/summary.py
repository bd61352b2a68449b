"""What became of the guests in an output directory, as Markdown, which is what GitHub's job summaries are."""

from collections.abc import Iterable, Iterator
from typing import Final

from guestforge.ci.markdown import block, cell, row
from guestforge.ci.reports import Check, Guest, Report
from guestforge.core.progress import human

MAX_BYTES: Final = 512 * 1024  # GitHub takes 1 MiB a step
MAX_LINES: Final = 40  # of what a failed check shows, the last ones
SIGNS: Final = {"pass": "✅ pass", "fail": "❌ fail", "skip": "skip"}
CUT: Final = "\n\nThe rest is too long for a summary: the reports have it.\n"
NONE: Final = "No guest was built.\n"


def summary(guests: Iterable[Guest]) -> str:
    """Return the Markdown: failures first, then a table of boots, one of files, and those of the checks."""
    found = tuple(guests)
    if not found:
        return NONE
    text = "\n\n".join(part for part in (*_failures(found), _boots(found), _files(found), *_checks(found)) if part)
    data = text.encode()
    if len(data) <= MAX_BYTES:
        return f"{text}\n"
    # at the end of a part, so that no fence and no table is left open
    kept = data[:MAX_BYTES].decode(errors="ignore").rpartition("\n\n")[0]
    return f"{kept}{CUT}"


def _failures(guests: Iterable[Guest]) -> Iterator[str]:
    for report in _reports(guests):
        for check in _culprits(report):
            first, *shown = check.detail.splitlines() or [""]
            title = f"### ❌ {cell(_name(report))}: {cell(check.name)}"
            lines = [line for line in shown[-MAX_LINES:] if line.strip()]  # a text is cut at an empty line
            yield "\n".join([title, f"reason: {cell(first)}", *([block(lines)] if lines else [])])


def _boots(guests: Iterable[Guest]) -> str:
    rows = [
        row(
            (
                cell(_name(report)),
                SIGNS[report.verdict],
                _passed(report),
                *map(_seconds, _times(report)),
                cell(report.accelerator),
            )
        )
        for report in _reports(guests)
    ]
    head = row(("boot", "", "checks", "agent ready", "all checks", "accelerator"))
    return "\n".join([head, row(["---"] * 6), *rows]) if rows else ""


def _files(guests: Iterable[Guest]) -> str:
    rows = [
        row((cell(f"{guest.name} {guest.arch}"), cell(name), human(size)))
        for guest in guests
        for name, size in guest.sizes
    ]
    return "\n".join([row(("guest", "file", "size")), row(("---", "---", "---:")), *rows]) if rows else ""


def _checks(guests: Iterable[Guest]) -> Iterator[str]:
    for report in _reports(guests):
        rows = [
            row(
                (cell(check.name), SIGNS[check.status], f"{check.seconds:.2f} s", cell(check.detail.partition("\n")[0]))
            )
            for check in report.checks
        ]
        head = (row(("check", "", "seconds", "detail")), row(("---", "---", "---:", "---")))
        yield "\n".join([f"#### {cell(_name(report))}", *head, *rows])


def _reports(guests: Iterable[Guest]) -> Iterator[Report]:
    return (report for guest in guests for report in guest.reports)


def _culprits(report: Report) -> list[Check]:
    """Return the checks that failed; where none did, those that were asked for and skipped."""
    failed = [check for check in report.checks if check.status == "fail"]
    skipped = [check for check in report.checks if check.status == "skip" and not check.excused]
    return failed or skipped


def _name(report: Report) -> str:
    return f"{report.guest} {report.arch} {report.artifact}"


def _passed(report: Report) -> str:
    return f"{sum(check.status == 'pass' for check in report.checks)} of {len(report.checks)}"


def _times(report: Report) -> tuple[float | None, float | None]:
    return report.phases.agent_ready, report.phases.done


def _seconds(seconds: float | None) -> str:
    return f"{seconds:.2f} s" if seconds is not None else ""
