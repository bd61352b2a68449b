"""`--runtime docker`: the same task in a container, which is told with the words that a user has typed."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

from guestforge.arch import Arch
from guestforge.bootable import Bootable, guest_needs
from guestforge.core.graph import Evaluation, needs_of
from guestforge.core.jobserver import Jobserver
from guestforge.core.need import Need
from guestforge.core.store import Store
from guestforge.docker.delegate import Errand, delegate
from guestforge.pipeline import Pipeline
from guestforge.project.option import Given, options_of
from guestforge.project.options import ARTIFACTS, BuildOptions, CheckOptions, MakeOptions
from guestforge.publish.fetched import guest_to_boot

BOOTING: Final = ("check", "conform")  # the tasks that take a release that was fetched, too
SAID: Final = ("runtime", "on", "arch", "project", "output")  # options that are not handed on as they were typed


def run_elsewhere(task: str, records: Sequence[Any], given: Mapping[str, Given]) -> int:
    """Run a task of these records of options in a container; return its exit code."""
    (built,) = (record for record in records if isinstance(record, BuildOptions))
    (making,) = (record for record in records if isinstance(record, MakeOptions))
    errand = Errand(
        task=task,
        words=(*_words(records, given), f"--project={built.project.root}", f"--output={built.output}"),
        arches=built.arches,
        needs=_needs(task, built),
        project=built.project,
        guest=built.guest,
        output=built.output,
        readable=(built.agent,) if built.agent else (),
        mirror=built.mirror,
        once=making.dry_run or making.fetch_only,
        engines=making.on,
    )
    return delegate(errand)


def _words(records: Sequence[Any], given: Mapping[str, Given]) -> Iterator[str]:
    """Yield what was typed, paths as seen from anywhere."""
    for record in records:
        for field, option in options_of(type(record)).items():
            value = given.get(option.name)
            if option.name in SAID or not value:
                continue
            read = getattr(record, field)
            if value is True:
                yield f"--{option.name}"
            elif isinstance(read, Path):
                yield f"--{option.name}={read.absolute()}"
            else:
                yield from (f"--{option.name}={each}" for each in (value if isinstance(value, tuple) else (value,)))


def _needs(task: str, built: BuildOptions) -> tuple[Need, ...]:
    """Return what it takes to build and to boot a guest, on all architectures that are asked for."""
    evaluation, jobs = Evaluation(Store()), Jobserver(built.jobs)

    def guest(arch: Arch) -> Bootable:
        make = guest_to_boot if task in BOOTING else Pipeline
        return make(arch, built, evaluation, jobs)

    def needs(one: Bootable) -> Iterator[Need]:
        yield from guest_needs(one)
        yield from needs_of(*(one.check_step(name, CheckOptions()) for name in ARTIFACTS))

    return tuple(dict.fromkeys(chain.from_iterable(needs(guest(arch)) for arch in built.arches)))
