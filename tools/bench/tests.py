"""`./invoke bench.tests`: `./invoke test` in a clone of this checkout, from nothing and then once more."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.core.cache import SCRATCH, VARIABLE, user_cache
from guestforge.core.errors import UserError
from guestforge.core.progress import step
from guestforge.core.run import run as run_program
from guestforge.core.runtime import HOST
from guestforge.core.scratch import scratch_directory
from guestforge.host.packages import SWITCH, ensure
from guestforge.host.selftest import needs
from guestforge.project.layout import CHECKOUT, INVOKE
from guestforge.project.options import BenchOptions
from guestforge.release.checkouts import find_checkouts
from tools.bench.figures import Aim, Figure, Section, Table, publish
from tools.bench.host import host_facts, now
from tools.bench.lanes import Command, seconds_of

NOTHING_AIM: Final = Aim(40 * 60)  # seconds
FULL_AIM: Final = Aim(11 * 60)
# What the task says of each stage in the end, and pytest of the tests of one
_STAGE: Final = re.compile(r"^(?:\S+ )?([a-z][a-z ]*): passed in (\d+\.\d) s$", re.MULTILINE)
_COUNT: Final = re.compile(r"^=+ (\d+) passed\b.* in \d+\.\d+s", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Proof:
    """One run of all tests: its wall time in seconds, and all that it said."""

    seconds: float
    output: str


def run(measured: BenchOptions) -> None:
    """Run all tests twice, on the architectures that were asked for, and write the section.

    Raises UserError where files are changed that no commit has, BuildError for tests that fail.
    """
    commit = committed()
    ensure(needs(measured.arches, fast=False))
    facts = host_facts()
    arches = ",".join(arch.name for arch in measured.arches)
    with scratch_directory(SCRATCH, user_cache().path) as scratch:
        clone = scratch / "checkout"
        run_program(["git", "clone", "--quiet", CHECKOUT, clone])
        nothing, full = (_prove(scratch, clone, arches, name) for name in ("from nothing", "with a full store"))
    table = Table("all stages", (("commit", commit), ("guests", arches)), tuple(figures(nothing, full)))
    publish(Section("tests", now(), facts, (table,)))


def committed() -> str:
    """Return the commit that is tested; raises UserError where the tree has more than it."""
    ours = find_checkouts(CHECKOUT, HOST)[0]
    if not ours.commit or not ours.clean:
        raise UserError(
            f"{CHECKOUT} has what no commit has, and a clone would not",
            hint="commit it first: what is measured is what is committed",
        )
    return ours.commit


def _prove(scratch: Path, clone: Path, arches: str, name: str) -> Proof:
    log = scratch / f"{name}.log"
    command = Command(
        (str(clone / INVOKE.name), "test", "--arch", arches),
        # CI: the same examples of the property tests both times, see tests/conftest.py
        {VARIABLE: str(scratch / "cache"), SWITCH: "never", "CI": "true"},
    )
    with step(f"running all tests {name}"):
        seconds = seconds_of(command, log)
    return Proof(seconds, log.read_text(errors="replace"))


def figures(nothing: Proof, full: Proof) -> Iterator[Figure]:
    """Yield the figures of both runs."""
    yield Figure("./invoke test, from nothing", nothing.seconds, "seconds", NOTHING_AIM, stages(nothing.output))
    yield Figure("./invoke test, the store full", full.seconds, "seconds", FULL_AIM, stages(full.output))


def stages(output: str) -> str:
    """Return how long each stage took and how many tests passed, by what a run said."""
    times = ", ".join(f"{name} {seconds} s" for name, seconds in _STAGE.findall(output))
    return f"{times}; {sum(map(int, _COUNT.findall(output))):,} tests"
