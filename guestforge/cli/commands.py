"""What the tasks do: each for all architectures that were asked for, going on after one that fails."""

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from guestforge.arch import ARCHES
from guestforge.bootable import Bootable
from guestforge.cli.why import explain
from guestforge.core.cache import clean as clean_cache
from guestforge.core.cache import user_cache
from guestforge.core.errors import GuestforgeError, UserError
from guestforge.core.events import Foretold, Listed, send
from guestforge.core.files import remove
from guestforge.core.graph import Evaluation, walk
from guestforge.core.jobserver import Jobserver
from guestforge.core.need import Need
from guestforge.core.progress import complain, human, say
from guestforge.core.schedule import Goal, Rules, Schedule
from guestforge.core.step import Step
from guestforge.core.store import Store
from guestforge.host.packages import ensure
from guestforge.manifest import Artifact, place, write_json
from guestforge.pipeline import Pipeline
from guestforge.project.option import known
from guestforge.project.options import (
    ARTIFACTS,
    BuildOptions,
    CheckOptions,
    CleanOptions,
    ConformOptions,
    MakeOptions,
    ProofOptions,
    StepOptions,
)
from guestforge.rootfs.agent import AGENT
from guestforge.rootfs.tree import Directory, File, Node, Symlink
from guestforge.vmm.needs import boot_needs

CONFORM_JSON: Final = "conform.json"

G = TypeVar("G", bound=Bootable)
Work = Callable[[G], None]
Goals = Callable[[G], tuple[Goal, ...]]


def build(built: BuildOptions, making: MakeOptions, checks: CheckOptions, proof: ProofOptions) -> int:
    """Build everything, fill the output directory, and prove it."""
    return _make(_pipelines(built), making, _guest_and_proofs(checks, proof))


def check(built: BuildOptions, making: MakeOptions, checks: CheckOptions, proof: ProofOptions) -> int:
    """Boot and check a release that was fetched, or else what the recipe makes, built first where it has not been."""
    return _make(_to_boot(built), making, _guest_and_proofs(checks, proof), proven_again=True)


def conform(built: BuildOptions, making: MakeOptions, checks: CheckOptions, trial: ConformOptions) -> int:
    """Try on each storage of a guest what file systems promise, and print what is not kept everywhere."""

    def work(guest: Bootable) -> None:
        from guestforge.check import live
        from guestforge.conform.run import conform as run_conform
        from guestforge.conform.table import table

        ensure(boot_needs(guest.arch))
        found = run_conform(
            live.start,
            guest.guest_artifacts(),
            guest.conform,
            checks,
            guest.evaluation.runtime,
            many=trial.many,
        )
        write_json(guest.output / CONFORM_JSON, found.to_json())
        say(table(found))

    def goals(guest: Bootable) -> tuple[Goal, ...]:
        steps = guest.steps
        return (Goal(guest.arch.name, (*steps.published, steps.probe, steps.conform)),)

    return _make(_to_boot(built), making, goals, work)


def kernel(built: BuildOptions, making: MakeOptions) -> int:
    """Build the kernel and put it into the output directory."""
    return _make(_pipelines(built), making, lambda one: (_placed(one, one.steps.kernel, one.kernel_artifacts),))


def agent(built: BuildOptions, making: MakeOptions) -> int:
    """Build the agent and put it into the output directory."""

    def goals(pipeline: Pipeline) -> tuple[Goal, ...]:
        return (_placed(pipeline, pipeline.steps.agent, lambda: (Artifact(AGENT, pipeline.agent, AGENT),)),)

    return _make(_pipelines(built), making, goals)


def rootfs(built: BuildOptions, making: MakeOptions) -> int:
    """List what the root file system holds."""

    def work(pipeline: Pipeline) -> None:
        for node in pipeline.disk_tree:
            send(_listed(node))

    def goals(pipeline: Pipeline) -> tuple[Goal, ...]:
        return (Goal(pipeline.arch.name, pipeline.steps.parts.steps),)

    return _make(_pipelines(built), making, goals, work)


def initrd(built: BuildOptions, making: MakeOptions) -> int:
    """Build the initrd and put it into the output directory."""
    return _make(
        _pipelines(built), making, lambda one: (_placed(one, one.steps.initrd, lambda: (one.initrd_artifact(),)),)
    )


def image(built: BuildOptions, making: MakeOptions) -> int:
    """Build the disk image and put it into the output directory."""
    return _make(
        _pipelines(built), making, lambda one: (_placed(one, one.steps.image, lambda: (one.image_artifact(),)),)
    )


def why(asked: StepOptions, built: BuildOptions, checks: CheckOptions, proof: ProofOptions) -> int:
    """Say of a step what in its key has changed since its newest entry in the store."""
    goals = _guest_and_proofs(checks, proof)

    def work(pipeline: Pipeline) -> None:
        steps = {step.role: step for step in walk(*_steps(goals(pipeline)))}
        wanted = known("STEP", asked.step, tuple(steps))
        for line in explain(pipeline.evaluation, steps[wanted]):
            print(line)

    return max(_each(_pipelines(built), work))


def clean(removed: CleanOptions) -> None:
    """Remove what was built from the project's output directory, and with --store all that the cache holds of ours."""
    _clean_output(removed.project.output)
    if removed.store:
        place = user_cache()
        say(f"removing what guestforge has made in {place.path}")
        if kept := clean_cache(place):
            say(f"kept, for it is not guestforge's: {', '.join(map(str, kept))}")


def _clean_output(output: Path) -> None:
    """Remove a link alone; else the folders of architectures, for whatever else is there was not put there by us."""
    ours = [output] if output.is_symlink() else [path for arch in ARCHES if (path := output / arch).exists()]
    for path in ours:
        say(f"removing {path}")
        remove(path)
    with contextlib.suppress(OSError):  # somebody else's files are in it, or it is not there
        output.rmdir()


def _make(
    guests: list[G], making: MakeOptions, goals: Goals[G], work: Work[G] | None = None, *, proven_again: bool = False
) -> int:
    """Make each guest's goals side by side, then do the work for those that were made; return the exit code.

    That is the worst of all errors. With --dry-run, say what would become of the steps instead; with --fetch-only, make
    those alone that take something from elsewhere.
    """
    if making.on:
        raise UserError("--on names engines of Docker's", hint="it goes with --runtime docker")
    wanted = {guest: goals(guest) for guest in guests}
    if making.dry_run:
        return max(_each(guests, lambda guest: _foretell(guest, _steps(wanted[guest]))))
    for guest in guests if not making.fetch_only else ():  # which leaves the output directory alone
        guest.try_places()
    asked = {guest: walk(*_steps(wanted[guest])) for guest in guests}
    steps = dict.fromkeys(step for guest in guests for step in asked[guest])
    proofs = frozenset(step for step in steps if step.weight == "guest")
    ensure(need for step in steps if step not in proofs for need in step.needs)
    _ensure_for_proofs(need for step in proofs for need in step.needs)

    def judge(guest: G) -> None:
        """Have a user's mistake told of before a kernel is compiled for it."""
        # a proof's emulator may have to be fetched
        guest.evaluation.judge(*(step for step in asked[guest] if making.fetch_only or step not in proofs))

    if making.fetch_only:
        wanted = {guest: (_from_elsewhere(guest, asked[guest]),) for guest in guests}
        work = None
    codes = _each(guests, judge)
    judged = [guest for guest, code in zip(guests, codes, strict=True) if not code]
    again = proofs if proven_again else frozenset()
    rules = Rules(guests[0].jobs, again=again, fail_fast=making.fail_fast)
    if rules.fail_fast and any(codes):
        return max(codes)
    schedule = Schedule(guests[0].evaluation, [goal for one in judged for goal in wanted[one]], rules)
    schedule.run()
    made = [guest for guest in judged if all(map(schedule.made, wanted[guest]))]
    return max(*codes, 0, *(error.exit_code for error in schedule.errors), *(_each(made, work) if work else ()))


def _from_elsewhere(guest: Bootable, steps: Iterable[Step]) -> Goal:
    """Return the goal of all that is taken from elsewhere for steps."""
    return Goal(f"{guest.arch.name} sources", tuple(step for step in steps if step.fetches))


def _ensure_for_proofs(needs: Iterable[Need]) -> None:
    """Install what proofs need. Where that can't be, what is built is there all the same, and the proof fails."""
    try:
        ensure(needs)
    except UserError as e:
        complain(e)


def _pipelines(built: BuildOptions) -> list[Pipeline]:
    evaluation, jobs = Evaluation(Store()), Jobserver(built.jobs)
    return [Pipeline(arch, built, evaluation, jobs) for arch in built.arches]


def _to_boot(built: BuildOptions) -> list[Bootable]:
    from guestforge.publish.fetched import guest_to_boot

    evaluation, jobs = Evaluation(Store()), Jobserver(built.jobs)
    return [guest_to_boot(arch, built, evaluation, jobs) for arch in built.arches]


def _each(guests: list[G], work: Work[G]) -> list[int]:
    """Do the work for each guest; return the exit code of each. A single one's error is raised as it is."""
    if len(guests) == 1:
        work(guests[0])
        return [0]
    return [_attempt(guest, work) for guest in guests]


def _attempt(guest: G, work: Work[G]) -> int:
    try:
        work(guest)
    except GuestforgeError as error:
        complain(error, guest.arch.name)
        return error.exit_code
    return 0


def _steps(goals: Iterable[Goal]) -> tuple[Step, ...]:
    return tuple(step for goal in goals for step in goal.steps)


def _guest_and_proofs(checks: CheckOptions, proof: ProofOptions) -> Goals[Bootable]:
    """Return the goals of a guest: its output, and the proof of each artifact that is asked for."""

    def goals(guest: Bootable) -> tuple[Goal, ...]:
        steps = guest.steps
        proofs = [guest.check_step(name, checks) for name in ARTIFACTS if name in proof.artifacts]
        return (
            Goal(f"{guest.arch.name} output", steps.published, lambda _: _publish(guest)),
            *(Goal(f"{proof.title} report", (proof,), partial(guest.show_proof, proof)) for proof in proofs),
        )

    return goals


def _publish(guest: Bootable) -> None:
    guest.publish()
    files = (guest.kernel_artifacts()[0], guest.initrd_artifact(), guest.image_artifact())
    sizes = ", ".join(f"{file.name} {human(file.entry.files[file.file].size)}" for file in files)
    say(f"{guest.output}: {sizes}")


def _placed(pipeline: Pipeline, step: Step, artifacts: Callable[[], tuple[Artifact, ...]]) -> Goal:
    """Return the goal of a step whose files go into the output directory alone."""

    def then(_: bool) -> None:
        for name, facts in place(pipeline.output, artifacts()).items():
            say(f"{pipeline.output / name}: {human(facts.size)}")

    return Goal(f"{pipeline.arch.name} output", (step,), then)


def _foretell(guest: Bootable, steps: tuple[Step, ...]) -> None:
    for prospect in guest.evaluation.outlook(*steps):
        send(Foretold(prospect.step.title, prospect.state, prospect.missing))


def _listed(node: Node) -> Listed:
    match node:
        case Symlink():
            return Listed(node.path, "symlink", node.mode, target=node.target)
        case Directory():
            return Listed(node.path, "directory", node.mode)
        case File():
            return Listed(node.path, "file", node.mode, size=node.size)
    return Listed(node.path, node.kind, node.mode, device=(node.major, node.minor))
