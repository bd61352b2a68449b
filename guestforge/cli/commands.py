"""What the tasks do: each for all architectures that were asked for, going on after one that fails."""

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

from guestforge.arch import ARCHES
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

Work = Callable[[Pipeline], None]
Goals = Callable[[Pipeline], tuple[Goal, ...]]


def build(built: BuildOptions, making: MakeOptions, checks: CheckOptions, proof: ProofOptions) -> int:
    """Build everything, fill the output directory, and prove it."""
    return _make(built, making, _guest_and_proofs(checks, proof))


def check(built: BuildOptions, making: MakeOptions, checks: CheckOptions, proof: ProofOptions) -> int:
    """Boot and check what the recipe makes, which is built first where it has not been."""
    return _make(built, making, _guest_and_proofs(checks, proof), proven_again=True)


def conform(built: BuildOptions, making: MakeOptions, checks: CheckOptions, trial: ConformOptions) -> int:
    """Try on each storage of a guest what file systems promise, and print what is not kept everywhere."""

    def work(pipeline: Pipeline) -> None:
        from guestforge.check import live
        from guestforge.conform.run import conform as run_conform
        from guestforge.conform.table import table

        ensure(boot_needs(pipeline.arch))
        found = run_conform(
            live.start,
            pipeline.guest_artifacts(),
            pipeline.conform,
            checks,
            pipeline.evaluation.runtime,
            many=trial.many,
        )
        write_json(pipeline.output / CONFORM_JSON, found.to_json())
        say(table(found))

    def goals(pipeline: Pipeline) -> tuple[Goal, ...]:
        steps = pipeline.steps
        return (Goal(pipeline.arch.name, (*steps.published, steps.probe, steps.conform)),)

    return _make(built, making, goals, work)


def kernel(built: BuildOptions, making: MakeOptions) -> int:
    """Build the kernel and put it into the output directory."""
    return _make(built, making, lambda one: (_placed(one, one.steps.kernel, one.kernel_artifacts),))


def agent(built: BuildOptions, making: MakeOptions) -> int:
    """Build the agent and put it into the output directory."""

    def goals(pipeline: Pipeline) -> tuple[Goal, ...]:
        return (_placed(pipeline, pipeline.steps.agent, lambda: (Artifact(AGENT, pipeline.agent, AGENT),)),)

    return _make(built, making, goals)


def rootfs(built: BuildOptions, making: MakeOptions) -> int:
    """List what the root file system holds."""

    def work(pipeline: Pipeline) -> None:
        for node in pipeline.disk_tree:
            send(_listed(node))

    def goals(pipeline: Pipeline) -> tuple[Goal, ...]:
        return (Goal(pipeline.arch.name, (pipeline.steps.agent, *pipeline.steps.parts.packages)),)

    return _make(built, making, goals, work)


def initrd(built: BuildOptions, making: MakeOptions) -> int:
    """Build the initrd and put it into the output directory."""
    return _make(built, making, lambda one: (_placed(one, one.steps.initrd, lambda: (one.initrd_artifact(),)),))


def image(built: BuildOptions, making: MakeOptions) -> int:
    """Build the disk image and put it into the output directory."""
    return _make(built, making, lambda one: (_placed(one, one.steps.image, lambda: (one.image_artifact(),)),))


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
    built: BuildOptions, making: MakeOptions, goals: Goals, work: Work | None = None, *, proven_again: bool = False
) -> int:
    """Make each architecture's goals side by side, then do the work for those that were made; return the exit code.

    That is the worst of all errors. With --dry-run, say what would become of the steps instead.
    """
    pipelines = _pipelines(built)
    wanted = {pipeline: goals(pipeline) for pipeline in pipelines}
    if making.dry_run:
        return max(_each(pipelines, lambda pipeline: _foretell(pipeline, _steps(wanted[pipeline]))))
    for pipeline in pipelines:
        pipeline.try_places()
    steps = walk(*(step for pipeline in pipelines for step in _steps(wanted[pipeline])))
    guests = frozenset(step for step in steps if step.weight == "guest")
    ensure(need for step in steps if step not in guests for need in step.needs)
    _ensure_for_proofs(need for step in guests for need in step.needs)

    def judge(pipeline: Pipeline) -> None:
        """Have a user's mistake told of before a kernel is compiled for it."""
        pipeline.evaluation.judge(*(step for step in walk(*_steps(wanted[pipeline])) if step not in guests))

    codes = _each(pipelines, judge)
    judged = [pipeline for pipeline, code in zip(pipelines, codes, strict=True) if not code]
    again = guests if proven_again else frozenset()
    rules = Rules(pipelines[0].jobs, again=again, fail_fast=making.fail_fast)
    if rules.fail_fast and any(codes):
        return max(codes)
    schedule = Schedule(pipelines[0].evaluation, [goal for one in judged for goal in wanted[one]], rules)
    schedule.run()
    made = [pipeline for pipeline in judged if all(map(schedule.made, wanted[pipeline]))]
    return max(*codes, 0, *(error.exit_code for error in schedule.errors), *(_each(made, work) if work else ()))


def _ensure_for_proofs(needs: Iterable[Need]) -> None:
    """Install what proofs need. Where that can't be, what is built is there all the same, and the proof fails."""
    try:
        ensure(needs)
    except UserError as e:
        complain(e)


def _pipelines(built: BuildOptions) -> list[Pipeline]:
    evaluation, jobs = Evaluation(Store()), Jobserver(built.jobs)
    return [Pipeline(arch, built, evaluation, jobs) for arch in built.arches]


def _each(pipelines: list[Pipeline], work: Work) -> list[int]:
    """Do the work for each architecture; return the exit code of each. A single one's error is raised as it is."""
    if len(pipelines) == 1:
        work(pipelines[0])
        return [0]
    return [_attempt(pipeline, work) for pipeline in pipelines]


def _attempt(pipeline: Pipeline, work: Work) -> int:
    try:
        work(pipeline)
    except GuestforgeError as error:
        complain(error, pipeline.arch.name)
        return error.exit_code
    return 0


def _steps(goals: Iterable[Goal]) -> tuple[Step, ...]:
    return tuple(step for goal in goals for step in goal.steps)


def _guest_and_proofs(checks: CheckOptions, proof: ProofOptions) -> Goals:
    """Return the goals of a guest: its output, and the proof of each artifact that is asked for."""

    def goals(pipeline: Pipeline) -> tuple[Goal, ...]:
        steps = pipeline.steps
        proofs = [pipeline.check_step(name, checks) for name in ARTIFACTS if name in proof.artifacts]
        return (
            Goal(f"{pipeline.arch.name} output", steps.published, lambda _: _publish(pipeline)),
            *(Goal(f"{proof.title} report", (proof,), partial(pipeline.show_proof, proof)) for proof in proofs),
        )

    return goals


def _publish(pipeline: Pipeline) -> None:
    pipeline.publish()
    files = (pipeline.kernel_artifacts()[0], pipeline.initrd_artifact(), pipeline.image_artifact())
    sizes = ", ".join(f"{file.name} {human(file.entry.files[file.file].size)}" for file in files)
    say(f"{pipeline.output}: {sizes}")


def _placed(pipeline: Pipeline, step: Step, artifacts: Callable[[], tuple[Artifact, ...]]) -> Goal:
    """Return the goal of a step whose files go into the output directory alone."""

    def then(_: bool) -> None:
        for name, facts in place(pipeline.output, artifacts()).items():
            say(f"{pipeline.output / name}: {human(facts.size)}")

    return Goal(f"{pipeline.arch.name} output", (step,), then)


def _foretell(pipeline: Pipeline, steps: tuple[Step, ...]) -> None:
    for prospect in pipeline.evaluation.outlook(*steps):
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
