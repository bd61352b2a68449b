"""What the tasks do: each for all architectures that were asked for, going on after one that fails."""

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

from guestforge.arch import ARCHES, Arch, host, lookup_list
from guestforge.cache import clean as clean_cache
from guestforge.cache import user_cache
from guestforge.check import live
from guestforge.check.options import ARTIFACTS, CheckOptions
from guestforge.cli import Chosen
from guestforge.conform.run import MANY
from guestforge.conform.run import conform as run_conform
from guestforge.conform.table import table
from guestforge.errors import GuestforgeError, UserError
from guestforge.files import remove, require_file
from guestforge.graph import Evaluation, walk
from guestforge.host.packages import ensure
from guestforge.jobserver import Jobserver
from guestforge.manifest import Artifact, place, write_json
from guestforge.need import Need
from guestforge.pipeline import Pipeline
from guestforge.progress import complain, human, say
from guestforge.project import find_project
from guestforge.rootfs.agent import AGENT
from guestforge.rootfs.tree import Directory, File, Node, Symlink
from guestforge.schedule import Goal, Rules, Schedule
from guestforge.step import Step
from guestforge.store import Store
from guestforge.targets import Options
from guestforge.vmm.accel import Wanted
from guestforge.vmm.needs import boot_needs
from guestforge.vmm.virtiofs import SERVERS
from guestforge.vmm.virtiofs import Wanted as WantedServer
from guestforge.why import explain, foretold

MAX_JOBS: Final = 4096
MAX_FILES: Final = 1_000_000
CONFORM_JSON: Final = "conform.json"
MAX_TIMEOUT: Final = 86_400.0  # seconds
ACCELERATORS: Final[tuple[Wanted, ...]] = ("auto", "kvm", "tcg")

Work = Callable[[Pipeline], None]
Goals = Callable[[Pipeline], tuple[Goal, ...]]


def build(chosen: Chosen) -> int:
    """Build everything, fill the output directory, and prove it."""
    return _make(chosen, _guest_and_proofs(chosen))


def check(chosen: Chosen) -> int:
    """Boot and check what the recipe makes, which is built first where it has not been."""
    return _make(chosen, _guest_and_proofs(chosen), proven_again=True)


def conform(chosen: Chosen) -> int:
    """Try on each storage of a guest what file systems promise, and print what is not kept everywhere."""
    options = CheckOptions(
        accel=accelerator_of(chosen),
        timeout=chosen.number("timeout", 0.1, MAX_TIMEOUT),
        virtio_fs_server=virtio_fs_server_of(chosen),
    )
    many = chosen.whole("many", 1, MAX_FILES) or MANY

    def work(pipeline: Pipeline) -> None:
        ensure(boot_needs(pipeline.arch))
        found = run_conform(live.start, pipeline.guest_artifacts(), pipeline.conform, options, many=many)
        write_json(pipeline.output / CONFORM_JSON, found.to_json())
        say(table(found))

    def goals(pipeline: Pipeline) -> tuple[Goal, ...]:
        steps = pipeline.steps
        return (Goal(pipeline.arch.name, (*steps.published, steps.probe, steps.conform)),)

    return _make(chosen, goals, work)


def kernel(chosen: Chosen) -> int:
    """Build the kernel and put it into the output directory."""
    return _make(chosen, lambda one: (_placed(one, one.steps.kernel, one.kernel_artifacts),))


def agent(chosen: Chosen) -> int:
    """Build the agent and put it into the output directory."""
    return _make(chosen, lambda one: (_placed(one, one.steps.agent, lambda: (Artifact(AGENT, one.agent, AGENT),)),))


def rootfs(chosen: Chosen) -> int:
    """List what the root file system holds."""

    def work(pipeline: Pipeline) -> None:
        for node in pipeline.disk_tree:
            print(_listed(node))

    def goals(pipeline: Pipeline) -> tuple[Goal, ...]:
        return (Goal(pipeline.arch.name, (pipeline.steps.agent, *pipeline.steps.parts.packages)),)

    return _make(chosen, goals, work)


def initrd(chosen: Chosen) -> int:
    """Build the initrd and put it into the output directory."""
    return _make(chosen, lambda one: (_placed(one, one.steps.initrd, lambda: (one.initrd_artifact(),)),))


def image(chosen: Chosen) -> int:
    """Build the disk image and put it into the output directory."""
    return _make(chosen, lambda one: (_placed(one, one.steps.image, lambda: (one.image_artifact(),)),))


def why(chosen: Chosen) -> int:
    """Say of a step what in its key has changed since its newest entry in the store."""
    goals = _guest_and_proofs(chosen)

    def work(pipeline: Pipeline) -> None:
        steps = {step.role: step for step in walk(*_steps(goals(pipeline)))}
        wanted = chosen.one_of("step", tuple(steps))
        for line in explain(pipeline.evaluation, steps[wanted]):
            print(line)

    return max(_each(_pipelines(chosen), work))


def clean(chosen: Chosen) -> None:
    """Remove what was built from the project's output directory, and with --store all that the cache holds of ours."""
    _clean_output(find_project(chosen.path("project")).output)
    if chosen.switch("store"):
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


def options_of(chosen: Chosen, guest: str | None = None) -> Options:
    """Read a build's options; `guest` is the default recipe. Raises UserError for one that makes no sense."""
    defaults = Options()
    project = find_project(chosen.path("project"))
    agent = chosen.path("agent")
    if agent is not None:
        require_file(agent, "--agent")
    return Options(
        project=project,
        guest=chosen.text("guest", guest or project.settings.guest),
        jobs=chosen.whole("jobs", 1, MAX_JOBS) or defaults.jobs,
        mirror=chosen.text("mirror", "") or None,
        refresh=chosen.switch("refresh"),
        agent=agent,
        output=chosen.path("output") or project.output,
    )


def arches_of(chosen: Chosen) -> tuple[Arch, ...]:
    """Return the architectures that were asked for, the host's by default; raises UserError for an unknown one."""
    return lookup_list(chosen.text("arch", host().name))


def accelerator_of(chosen: Chosen) -> Wanted:
    """Return the accelerator that was asked for; raises UserError for an unknown one."""
    name = chosen.one_of("accel", ACCELERATORS)
    return next(wanted for wanted in ACCELERATORS if wanted == name)


def virtio_fs_server_of(chosen: Chosen) -> WantedServer:
    """Return the virtio-fs server that was asked for; raises UserError for an unknown one."""
    name = chosen.one_of("virtio-fs-server", SERVERS)
    return next(wanted for wanted in SERVERS if wanted == name)


def _check_options(chosen: Chosen) -> CheckOptions:
    chosen.some_of("artifact", ARTIFACTS)
    return CheckOptions(
        accel=accelerator_of(chosen),
        timeout=chosen.number("timeout", 0.1, MAX_TIMEOUT),
        verbose=chosen.switch("verbose"),
        virtio_fs_server=virtio_fs_server_of(chosen),
    )


def _make(chosen: Chosen, goals: Goals, work: Work | None = None, *, proven_again: bool = False) -> int:
    """Make each architecture's goals side by side, then do the work for those that were made; return the exit code.

    That is the worst of all errors. With --dry-run, say what would become of the steps instead.
    """
    pipelines = _pipelines(chosen)
    wanted = {pipeline: goals(pipeline) for pipeline in pipelines}
    if chosen.switch("dry-run"):
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
    rules = Rules(
        pipelines[0].jobs, again=guests if proven_again else frozenset(), fail_fast=chosen.switch("fail-fast")
    )
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


def _pipelines(chosen: Chosen) -> list[Pipeline]:
    options = options_of(chosen)
    evaluation, jobs = Evaluation(Store()), Jobserver(options.jobs)
    return [Pipeline(arch, options, evaluation, jobs) for arch in arches_of(chosen)]


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


def _guest_and_proofs(chosen: Chosen) -> Goals:
    """Return the goals of a guest: its output, and the proof of each artifact that is asked for."""
    options = _check_options(chosen)
    booted = chosen.some_of("artifact", ARTIFACTS)

    def goals(pipeline: Pipeline) -> tuple[Goal, ...]:
        steps = pipeline.steps
        proofs = [pipeline.check_step(name, options) for name in ARTIFACTS if name in booted]
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
    for line in foretold(pipeline.evaluation.outlook(*steps)):
        print(line)


def _listed(node: Node) -> str:
    match node:
        case Symlink():
            return f"l0777        - {node.path} -> {node.target}"
        case Directory():
            return f"d{node.mode:04o}        - {node.path}"
        case File():
            return f"-{node.mode:04o} {node.size:8} {node.path}"
    return f"c{node.mode:04o} {f'{node.major},{node.minor}':>8} {node.path}"
