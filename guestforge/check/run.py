"""Boots an artifact, checks it, and writes and prints the report."""

import contextlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from guestforge.check.artifacts import GuestArtifacts
from guestforge.check.boot import Boot
from guestforge.check.checks import BLAME, CHECKS
from guestforge.check.engine import Run, RunEnded
from guestforge.check.guest import Machine, Starter
from guestforge.check.junit import write_junit
from guestforge.check.report import CONSOLE, FILES, JUNIT, REPORT, Report, write_report
from guestforge.check.storages import fill_shares, prepare
from guestforge.check.table import boot_line, table
from guestforge.core import progress
from guestforge.core.files import atomic_copy, disk_errors
from guestforge.core.runtime import Runtime
from guestforge.core.scratch import scratch_directory
from guestforge.project.options import Artifact, CheckOptions


def check_artifact(
    start: Starter, artifacts: GuestArtifacts, artifact: Artifact, out: Path, options: CheckOptions, *, runtime: Runtime
) -> Report:
    """Check one artifact on a machine of its own; `out` gets report, JUnit XML and console log (see docs/checks.md).

    A failed check is in the report and raises nothing; `report.failed` makes an error of it.
    Raises UserError when options ask for what this host cannot do, BuildError when a disk is full.
    """
    with _room_for(out):
        for name in FILES:  # a report of before must not pass for one of now
            (out / name).unlink(missing_ok=True)
    room = disk_errors(Path(tempfile.gettempdir()), "set TMPDIR to")
    with room, scratch_directory("guestforge-check-") as scratch:
        log = scratch / CONSOLE
        try:
            report = _boot(start, artifacts, artifact, scratch, options, runtime=runtime)
        finally:  # also when the user ends it: the console is what to look at
            if log.is_file():
                with _room_for(out):
                    atomic_copy(log, out / CONSOLE)
    with _room_for(out):
        write_report(report, out / REPORT)
        write_junit(report, out / JUNIT)
    progress.say(table(report))
    progress.say(boot_line(report))
    return report


def _room_for(out: Path) -> contextlib.AbstractContextManager[None]:
    return disk_errors(out, "give --output")


def _boot(
    start: Starter,
    artifacts: GuestArtifacts,
    artifact: Artifact,
    scratch: Path,
    options: CheckOptions,
    *,
    runtime: Runtime,
) -> Report:
    storages = prepare(artifacts.arch, artifacts.probe, scratch, runtime, by_node=not artifacts.own_agent)
    machine = Machine(
        artifacts=artifacts,
        artifact=artifact,
        options=options,
        storages=storages,
        console_log=scratch / CONSOLE,
        runtime=runtime,
    )
    label = f"checking {artifacts.arch.name} {artifact}"
    with ThreadPoolExecutor(1) as filler, progress.bar(label, len(CHECKS), "checks") as bar:
        boot = Boot(machine, filler.submit(fill_shares, storages).result)  # meanwhile the guest boots
        run = Run(CHECKS, boot, BLAME, lambda _: bar.update())
        with _ends(run), start(machine) as guest:
            boot.has_started(guest)
            run.on_guest()
        run.on_remains()
    boot.reached("done")
    return boot.report(run.results)


@contextlib.contextmanager
def _ends(run: Run[Boot]) -> Iterator[None]:
    """Give the run what ends it outside of any check: a machine that does not start, or does not stop."""
    try:
        yield
    except RunEnded as e:
        run.end(e)
