"""`./invoke test`: what the project proves of itself, stage by stage, going on after one that fails."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guestforge.arch import ARCHES, PROVEN, Arch
from guestforge.core.cache import VARIABLE
from guestforge.core.errors import BuildError
from guestforge.core.graph import needs_of
from guestforge.core.need import Need
from guestforge.core.progress import say
from guestforge.core.run import spawn
from guestforge.host.packages import ensure
from guestforge.oci import image
from guestforge.pipeline import Pipeline
from guestforge.project.layout import CHECKOUT
from guestforge.project.options import TESTED, BuildOptions, SelftestOptions, processors
from guestforge.vmm.needs import SECCOMP, boot_needs

PROGRAMS: Final = Path(sys.executable).parent  # of the virtual environment
SECONDS_ONLY: Final = "not boot and not slow"  # what --fast leaves: see the markers in pyproject.toml
# The other sides that our own readers and writers are compared with
TEST_NEEDS: Final = (
    Need("gpg", tool="gpg"),
    Need("gpgconf", tool="gpgconf"),
    Need("gpg-agent", tool="gpg-agent"),  # signs; gpg only recommends it
    Need("cpio", tool="cpio"),
    Need("minisign", tool="minisign"),
    Need("git", tool="git"),
    Need("docker-registry", tool="docker-registry"),
    Need("docker.io", tool="dockerd"),
    Need("mmdebstrap", tool="mmdebstrap"),
    SECCOMP,
    *image.NEEDS,
)
CODE: Final = ("guestforge", "tools", "tests", "tasks.py")


@dataclass(frozen=True, slots=True)
class Stage:
    """A program of the virtual environment that judges the project by its exit code."""

    name: str
    argv: tuple[str, ...]


def stages(arches: tuple[Arch, ...], *, fast: bool) -> tuple[Stage, ...]:
    """Return the stages in their order: what fails in seconds comes first."""
    quick = (
        Stage("lint", ("ruff", "check", *CODE)),
        Stage("format", ("ruff", "format", "--check", *CODE)),
        Stage("types", ("mypy",)),
    )
    if fast:
        return (*quick, *_tests(f"({SECONDS_ONLY}) and "))
    # what users do, with its progress to be seen; the tests then find everything built
    builds = Stage("builds", ("invoke", "build", "--arch", ",".join(arch.name for arch in arches)))
    return (*quick, builds, *_tests(""))


def _tests(selected: str) -> tuple[Stage, Stage]:
    """Return the tests that run side by side, a worker a processor, and those that measure and run one by one."""
    count = processors()
    workers = ("--numprocesses", str(count if count > 1 else 0), "--dist", "worksteal")
    return (
        Stage("tests", ("pytest", *workers, "--durations=10", "-m", f"{selected}not alone")),
        Stage("tests alone", ("pytest", "-m", f"{selected}alone")),
    )


def run_tests(tried: SelftestOptions) -> int:
    """Run all stages and return 0; raises BuildError that names those that failed, UserError for a missing program."""
    ensure(needs(tried.arches, fast=tried.fast))
    run_stages(stages(tried.arches, fast=tried.fast), lambda stage: _run(stage, tried.arches))
    return 0


def needs(arches: tuple[Arch, ...], *, fast: bool) -> tuple[Need, ...]:
    """Return what the stages need of the host."""
    # the unit tests write images and run a miniature of the kernel's build with the host's own compiler
    common = (*TEST_NEEDS, *_build_needs(PROVEN[0]))
    if fast:
        return common
    # a machine of every architecture is started, be it to see that QEMU takes its devices; emulators are small
    machines = (need for arch in ARCHES.values() for need in boot_needs(arch))
    return (*common, *machines, *(need for arch in arches for need in _build_needs(arch)))


def _build_needs(arch: Arch) -> tuple[Need, ...]:
    return needs_of(*Pipeline(arch, BuildOptions()).steps.published)


def run_stages(todo: tuple[Stage, ...], run: Callable[[Stage], int]) -> None:
    """Run stages; raises BuildError in the end if any of them failed."""
    outcomes: dict[str, tuple[int, float]] = {}
    for stage in todo:
        say(f"{stage.name}: {' '.join(stage.argv)}")
        start = time.monotonic()
        outcomes[stage.name] = run(stage), time.monotonic() - start
    for name, (code, seconds) in outcomes.items():
        say(f"{name}: {'passed' if code == 0 else f'failed with exit code {code}'} in {seconds:.1f} s")
    if bad := [name for name, (code, _) in outcomes.items() if code != 0]:
        raise BuildError(f"{', '.join(bad)} failed", hint="what failed is told above")


def _run(stage: Stage, arches: tuple[Arch, ...]) -> int:
    """Run a stage with its output where ours goes; return its exit code."""
    env = {name: os.environ[name] for name in (VARIABLE,) if name in os.environ}
    env[TESTED] = ",".join(arch.name for arch in arches)
    program = PROGRAMS / stage.argv[0]
    with spawn((program, *stage.argv[1:]), cwd=CHECKOUT, env=env, stdout=1, stderr=2) as process:
        return process.finish()
