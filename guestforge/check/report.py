"""The report of one boot: what was checked, on which machine, with what result. docs/checks.md describes the JSON."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from guestforge.core.errors import CheckError
from guestforge.core.files import atomic_file
from guestforge.project.options import Artifact

FILES = REPORT, JUNIT, CONSOLE = ("report.json", "junit.xml", "console.log")  # what a check leaves
SCHEMA = 1  # raised when a key changes its meaning or goes; a new key does not raise it

Status = Literal["pass", "fail", "skip"]
Verdict = Literal["pass", "fail"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What became of one check. `detail` is one line; for a failed check the lines that show the fault may follow.

    `excused`: it was skipped because it is not asked of this guest, and the verdict goes without it.
    """

    name: str
    status: Status
    seconds: float
    detail: str
    served_by: str | None = None  # the host program behind the device under test
    excused: bool = False

    @property
    def summary(self) -> str:
        """The first line of the detail."""
        return self.detail.partition("\n")[0]

    @property
    def excerpt(self) -> str:
        """What follows the first line: console or log lines, or nothing."""
        return self.detail.partition("\n")[2]


@dataclass(frozen=True, slots=True)
class Phases:
    """When the boot reached each phase, in seconds since we began to start QEMU; None for one that it did not reach."""

    qemu_start: float | None = None
    kernel_up: float | None = None
    agent_ready: float | None = None
    done: float | None = None


@dataclass(frozen=True, slots=True)
class Measurements:
    """What was measured on the way; None for what could not be.

    The guest's memory is read from its own /proc/meminfo by the agent, QEMU's from the host's /proc, both once the
    agent has answered. `agent_boot_seconds` is the guest's clock, the rest is the host's.
    """

    guest_memory_total_kib: int | None = None
    guest_memory_used_kib: int | None = None
    qemu_rss_kib: int | None = None
    qemu_pss_kib: int | None = None
    agent_boot_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Qemu:
    """The QEMU that ran the guest."""

    version: str
    argv: tuple[str, ...]
    reason: str = ""  # why this one
    untrusted: tuple[str, ...] = ()  # what its emulation can't be trusted with
    under_tcg: tuple[str, ...] = ()  # what is on its command line that would not be there under KVM


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one boot of one artifact.

    `storages` are the names of the checks that use a storage, `digests` the SHA-256 of the files that were booted.
    """

    arch: str
    guest: str
    artifact: Artifact
    accelerator: str
    accelerator_reason: str
    checks: tuple[CheckResult, ...]
    phases: Phases
    measurements: Measurements
    qemu: Qemu
    storages: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """`pass` only where there are checks and every one that is asked of this guest passed.

        A skipped check has proven nothing.
        """
        asked = [check for check in self.checks if not check.excused]
        return "pass" if asked and all(check.status == "pass" for check in asked) else "fail"

    @property
    def left_out(self) -> tuple[CheckResult, ...]:
        """The checks that are not asked of this guest."""
        return tuple(check for check in self.checks if check.excused)

    @property
    def judged_by(self) -> tuple[str, ...]:
        """The storages by which the verdict was reached: those on which something passed or failed."""
        return tuple(check.name for check in self.checks if check.name in self.storages and check.status != "skip")

    @property
    def name(self) -> str:
        """How people are told which boot this was."""
        return f"{self.arch} {self.artifact}"

    def served_by(self, check: str) -> str | None:
        """Return the host program behind a check's device, None if the check is not in the report."""
        return next((result.served_by for result in self.checks if result.name == check), None)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values, its keys in the order of the documentation."""
        fields = asdict(self)
        head = {name: fields[name] for name in ("arch", "guest", "artifact", "digests")}
        head |= {name: fields[name] for name in ("accelerator", "accelerator_reason")}
        tail = {name: fields[name] for name in ("checks", "phases", "measurements", "qemu")}
        return {"schema": SCHEMA, **head, "verdict": self.verdict, "storages": self.judged_by, **tail}


def write_report(report: Report, path: Path) -> None:
    """Write a report as JSON; the file is the old one or the whole new one at any moment."""
    text = json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n"
    with atomic_file(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def failed(reports: Iterable[Report]) -> CheckError | None:
    """Return the error that names the failed checks of all reports, with the first one's excerpt; None if all passed.

    Skipped checks are named only where no check failed: elsewhere they are the consequence, not the cause.
    """
    bad = [report for report in reports if report.verdict == "fail"]
    if not bad:
        return None
    culprits = [(report, result) for report in bad for result in _culprits(report)]
    lines = [f"{report.name}: {result.name}: {result.summary}" for report, result in culprits]
    message = f"boot check failed: {', '.join(_names(report) for report in bad)}"
    excerpt = next((result.excerpt for _, result in culprits if result.excerpt), "")
    return CheckError(
        message,
        hint="the whole console is in console.log beside the report; --verbose streams it",
        excerpt="\n".join([*lines, *([excerpt] if excerpt else [])]),
    )


def _names(report: Report) -> str:
    return f"{report.name} ({', '.join(result.name for result in _culprits(report)) or 'no checks'})"


def _culprits(report: Report) -> list[CheckResult]:
    failures = [result for result in report.checks if result.status == "fail"]
    return failures or [result for result in report.checks if result.status == "skip" and not result.excused]
