"""What the tasks do: each for every architecture that was asked for, going on after one that fails."""

import sys
from collections.abc import Callable
from typing import Final

from guestforge.arch import Arch, host, lookup_list
from guestforge.cache import clean as clean_cache
from guestforge.cache import user_cache
from guestforge.check import live
from guestforge.check.options import ARTIFACTS, CheckOptions
from guestforge.check.report import Artifact as Booted
from guestforge.check.report import failed
from guestforge.cli import Chosen
from guestforge.conform.run import MANY
from guestforge.conform.run import conform as run_conform
from guestforge.conform.table import table
from guestforge.errors import GuestforgeError, UserError
from guestforge.files import remove, require_file
from guestforge.graph import needs_of, walk
from guestforge.host.packages import ensure
from guestforge.manifest import Artifact, place, write_json
from guestforge.pipeline import Pipeline
from guestforge.progress import human, say
from guestforge.rootfs.agent import AGENT
from guestforge.rootfs.tree import Directory, File, Node, Symlink
from guestforge.step import Step
from guestforge.targets import OUTPUT, GuestSteps, Options
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
Targets = Callable[[GuestSteps], tuple[Step, ...]]


def build(chosen: Chosen) -> int:
    """Build everything, fill the output directory, and prove it."""
    options = _check_options(chosen)

    def work(pipeline: Pipeline) -> None:
        pipeline.publish()
        _say_sizes(pipeline)
        _prove(pipeline, chosen, options, again=False)

    return _for_each(chosen, _guest, work, proof=options)


def check(chosen: Chosen) -> int:
    """Boot and check what the recipe makes, which is built first where it has not been."""
    options = _check_options(chosen)

    def work(pipeline: Pipeline) -> None:
        pipeline.publish()
        _prove(pipeline, chosen, options, again=True)

    return _for_each(chosen, _guest, work, proof=options)


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

    return _for_each(chosen, lambda steps: (*_guest(steps), steps.conform), work)


def kernel(chosen: Chosen) -> int:
    """Build the kernel and put it into the output directory."""
    return _for_each(
        chosen, lambda steps: (steps.kernel,), lambda pipeline: _place(pipeline, pipeline.kernel_artifacts())
    )


def agent(chosen: Chosen) -> int:
    """Build the agent and put it into the output directory."""
    return _for_each(
        chosen,
        lambda steps: (steps.agent,),
        lambda pipeline: _place(pipeline, (Artifact(AGENT, pipeline.agent, AGENT),)),
    )


def rootfs(chosen: Chosen) -> int:
    """List what the root file system holds."""

    def work(pipeline: Pipeline) -> None:
        for node in pipeline.disk_tree:
            print(_listed(node))

    return _for_each(chosen, lambda steps: (steps.agent, *steps.parts.packages), work)


def initrd(chosen: Chosen) -> int:
    """Build the initrd and put it into the output directory."""
    return _for_each(
        chosen, lambda steps: (steps.initrd,), lambda pipeline: _place(pipeline, (pipeline.initrd_artifact(),))
    )


def image(chosen: Chosen) -> int:
    """Build the disk image and put it into the output directory."""
    return _for_each(
        chosen, lambda steps: (steps.image,), lambda pipeline: _place(pipeline, (pipeline.image_artifact(),))
    )


def why(chosen: Chosen) -> int:
    """Say of a step what in its key has changed since its newest entry in the store."""
    options = _check_options(chosen)

    def work(pipeline: Pipeline) -> None:
        steps = {step.role: step for step in walk(*_guest(pipeline.steps), *_proofs(pipeline, chosen, options))}
        wanted = chosen.one_of("step", tuple(steps))
        for line in explain(pipeline.evaluation, steps[wanted]):
            print(line)

    return _each(_pipelines(chosen), work)


def clean(chosen: Chosen) -> None:
    """Remove the default output directory, and with --store all that the cache directory holds of ours."""
    if OUTPUT.is_symlink() or OUTPUT.exists():
        say(f"removing {OUTPUT}")
        remove(OUTPUT)
    if chosen.switch("store"):
        place = user_cache()
        say(f"removing what guestforge has made in {place.path}")
        if kept := clean_cache(place):
            say(f"kept, for it is not guestforge's: {', '.join(map(str, kept))}")


def options_of(chosen: Chosen, guest: str = "minimal") -> Options:
    """Read a build's options; `guest` is the default recipe. Raises UserError for one that makes no sense."""
    defaults = Options()
    agent = chosen.path("agent")
    if agent is not None:
        require_file(agent, "--agent")
    return Options(
        guest=chosen.text("guest", guest),
        jobs=chosen.whole("jobs", 1, MAX_JOBS) or defaults.jobs,
        mirror=chosen.text("mirror", "") or None,
        refresh=chosen.switch("refresh"),
        agent=agent,
        output=chosen.path("output") or OUTPUT,
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


def _for_each(chosen: Chosen, targets: Targets, work: Work, *, proof: CheckOptions | None = None) -> int:
    """Do the work for each architecture, once what its targets need of the host is there; return the worst exit code.

    With --dry-run, say what would become of the targets' steps instead, and of those that prove them where `proof` has
    the options of that. A single architecture's error is raised as it is.
    """
    pipelines = _pipelines(chosen)
    if chosen.switch("dry-run"):
        return _each(pipelines, lambda pipeline: _foretell(pipeline, chosen, targets(pipeline.steps), proof))
    for pipeline in pipelines:
        pipeline.try_places()
    ensure(needs_of(*(step for pipeline in pipelines for step in targets(pipeline.steps))))
    return _each(pipelines, work)


def _pipelines(chosen: Chosen) -> list[Pipeline]:
    options = options_of(chosen)
    return [Pipeline(arch, options) for arch in arches_of(chosen)]


def _each(pipelines: list[Pipeline], work: Work) -> int:
    if len(pipelines) == 1:
        work(pipelines[0])
        return 0
    errors = {pipeline.arch.name: _attempt(pipeline, work) for pipeline in pipelines}
    for name, error in errors.items():
        say(f"{name}: {error.message if error else 'done'}")
    return max(error.exit_code if error else 0 for error in errors.values())


def _attempt(pipeline: Pipeline, work: Work) -> GuestforgeError | None:
    try:
        work(pipeline)
    except GuestforgeError as error:
        print(f"{pipeline.arch.name}: {error.report()}", file=sys.stderr)
        return error
    return None


def _guest(steps: GuestSteps) -> tuple[Step, ...]:
    """Return all that a guest and its proof are made of."""
    return (*steps.published, steps.probe)


def _booted(chosen: Chosen) -> list[Booted]:
    """Return what is to be booted, in the order in which it is."""
    wanted = chosen.some_of("artifact", ARTIFACTS)
    return [name for name in ARTIFACTS if name in wanted]


def _proofs(pipeline: Pipeline, chosen: Chosen, options: CheckOptions) -> list[Step]:
    return [pipeline.check_step(name, options, lambda _: None) for name in _booted(chosen)]


def _foretell(pipeline: Pipeline, chosen: Chosen, targets: tuple[Step, ...], proof: CheckOptions | None) -> None:
    proofs = _proofs(pipeline, chosen, proof) if proof else []
    for line in foretold(pipeline.evaluation.outlook(*targets, *proofs)):
        print(line)


def _prove(pipeline: Pipeline, chosen: Chosen, options: CheckOptions, *, again: bool) -> None:
    """Check each artifact; raises CheckError once all have been."""
    try:
        ensure(need for step in _proofs(pipeline, chosen, options) for need in step.needs)
    except UserError as e:  # what was built is there; that it can't be proven is the check's failure
        print(e.report(), file=sys.stderr)
    else:
        pipeline.describe()  # the emulator may have been installed just now
    reports = [pipeline.check(name, options, again=again) for name in _booted(chosen)]
    if error := failed(report for report in reports if report):
        raise error


def _place(pipeline: Pipeline, artifacts: tuple[Artifact, ...]) -> None:
    for name, facts in place(pipeline.output, artifacts).items():
        say(f"{pipeline.output / name}: {human(facts.size)}")


def _say_sizes(pipeline: Pipeline) -> None:
    files = (pipeline.kernel_artifacts()[0], pipeline.initrd_artifact(), pipeline.image_artifact())
    sizes = ", ".join(f"{file.name} {human(file.entry.files[file.file].size)}" for file in files)
    say(f"{pipeline.output}: {sizes}")


def _listed(node: Node) -> str:
    match node:
        case Symlink():
            return f"l0777        - {node.path} -> {node.target}"
        case Directory():
            return f"d{node.mode:04o}        - {node.path}"
        case File():
            return f"-{node.mode:04o} {node.size:8} {node.path}"
    return f"c{node.mode:04o} {f'{node.major},{node.minor}':>8} {node.path}"
