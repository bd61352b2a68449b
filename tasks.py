"""The tasks that a user types. Each takes its options and calls the library; docs/tasks.md describes them.

The library is imported inside the tasks: a task must not pay for what it does not use.
"""

from invoke import Collection

from guestforge.cli.job import job
from guestforge.cli.words import judge
from guestforge.project.options import (
    BenchOptions,
    BuildOptions,
    CheckOptions,
    CleanOptions,
    ConformOptions,
    ContainerOptions,
    DebugOptions,
    FetchOptions,
    HostBenchOptions,
    InitOptions,
    InstallOptions,
    KeygenOptions,
    LockOptions,
    MakeOptions,
    MatrixOptions,
    OverheadOptions,
    ProofOptions,
    PublishOptions,
    ReleaseOptions,
    SelftestOptions,
    StepOptions,
    SummaryOptions,
    TargetOptions,
    TerminalOptions,
    VerifyOptions,
)


@job()
def build(built: BuildOptions, making: MakeOptions, checks: CheckOptions, proof: ProofOptions) -> int:
    """Build kernel, agent, root file system, initrd and disk image, and prove them by booting."""
    from guestforge.cli import commands

    return commands.build(built, making, checks, proof)


@job()
def kernel(built: BuildOptions, making: MakeOptions) -> int:
    """Build the kernel alone."""
    from guestforge.cli import commands

    return commands.kernel(built, making)


@job()
def agent(built: BuildOptions, making: MakeOptions) -> int:
    """Build the agent alone."""
    from guestforge.cli import commands

    return commands.agent(built, making)


@job()
def rootfs(built: BuildOptions, making: MakeOptions) -> int:
    """Show what the root file system holds, having built what goes into it."""
    from guestforge.cli import commands

    return commands.rootfs(built, making)


@job()
def initrd(built: BuildOptions, making: MakeOptions) -> int:
    """Build the initrd, and what it needs."""
    from guestforge.cli import commands

    return commands.initrd(built, making)


@job()
def image(built: BuildOptions, making: MakeOptions) -> int:
    """Build the disk image, and what it needs."""
    from guestforge.cli import commands

    return commands.image(built, making)


@job()
def check(built: BuildOptions, making: MakeOptions, checks: CheckOptions, proof: ProofOptions) -> int:
    """Boot what was built and check it, whether it has been checked before or not."""
    from guestforge.cli import commands

    return commands.check(built, making, checks, proof)


@job(without=("verbose",))
def conform(built: BuildOptions, making: MakeOptions, checks: CheckOptions, trial: ConformOptions) -> int:
    """Try in a guest what file systems promise, on each storage, and print what is not kept everywhere."""
    from guestforge.cli import commands

    return commands.conform(built, making, checks, trial)


@job()
def run(built: DebugOptions, terminal: TerminalOptions, container: ContainerOptions) -> int | None:
    """Start a guest with its console on the terminal; Ctrl-A X leaves it. Or a container in one, of an OCI image."""
    from guestforge.cli import interactive

    return interactive.run(built, terminal, container)


@job(without=("verbose",))
def release(asked: ReleaseOptions, checks: CheckOptions) -> None:
    """Pack guests that were built and have passed their checks as files for others, signed where there is a key."""
    from guestforge.cli import release

    release.release(asked, checks)


@job()
def release_verify(asked: VerifyOptions) -> None:
    """Verify a release, offline, with nothing but its directory and a public key."""
    from guestforge.cli import release

    release.verify(asked)


@job()
def publish(asked: PublishOptions) -> None:
    """Verify a release, and bring it to a directory, an OCI registry or GitHub."""
    from guestforge.cli import publish

    publish.publish(asked)


@job()
def fetch(asked: FetchOptions) -> None:
    """Fetch a release from where it was published, verify it, and lay it out as output/ is."""
    from guestforge.cli import publish

    publish.fetch(asked)


@job(without=("verbose",))
def install(asked: InstallOptions, checks: CheckOptions) -> None:
    """Lay a guest out where Kata Containers' runtimes look, and with --kata tell them of it."""
    from guestforge.cli import install

    install.install(asked, checks)


@job(without=("verbose",))
def overhead(built: BuildOptions, checks: CheckOptions, asked: OverheadOptions) -> int:
    """Measure what a guest costs its host besides its containers, and write a RuntimeClass of it."""
    from guestforge.cli import overhead

    return overhead.overhead(built, checks, asked)


@job()
def release_keygen(asked: KeygenOptions) -> None:
    """Make a key to sign releases with, and the public one to verify them with."""
    from guestforge.cli import release

    release.keygen(asked)


@job()
def ci_matrix(asked: MatrixOptions) -> None:
    """Print what a CI system has to build: each guest and architecture, or those that have changed."""
    from guestforge.cli import ci

    ci.matrix(asked)


@job()
def ci_init(asked: InitOptions) -> None:
    """Write workflows for a CI system into the project's repository, or bring those up to date that are there."""
    from guestforge.cli import ci

    ci.init(asked)


@job()
def ci_summary(asked: SummaryOptions) -> None:
    """Print what became of the guests in output/ as Markdown: checks, sizes, boot times, and what failed."""
    from guestforge.cli import ci

    ci.summary(asked)


@job(without=("verbose",))
def why(asked: StepOptions, built: BuildOptions, checks: CheckOptions, proof: ProofOptions) -> int:
    """Say what in a step's key has changed since its newest entry in the store."""
    from guestforge.cli import commands

    return commands.why(asked, built, checks, proof)


@job()
def test(tried: SelftestOptions) -> int:
    """Lint, check types, and run all tests, with real boots unless --fast."""
    from guestforge.host import selftest

    return selftest.run_tests(tried)


@job()
def lock(asked: LockOptions) -> None:
    """Write down, in the project's guestforge.lock, which versions of packages its guests are made of."""
    from guestforge.cli import lock as locking

    locking.lock(asked)


@job()
def doctor(targets: TargetOptions) -> int:
    """Say what of this machine a build and its checks can use, and what is missing."""
    from guestforge.cli import doctor

    return doctor.run_doctor(targets)


@job()
def clean(removed: CleanOptions) -> None:
    """Remove what was built from output/, and with --store the store too."""
    from guestforge.cli import commands

    commands.clean(removed)


@job()
def bench_matrix(measured: BenchOptions) -> None:
    """Measure builds of all architectures at once, and write docs/figures.md."""
    from tools.bench import matrix

    matrix.run(measured)


@job()
def bench_build(measured: HostBenchOptions) -> None:
    """Measure builds against plain make, and write docs/figures.md."""
    from tools.bench import build

    build.run(measured)


@job()
def bench_boot(measured: BenchOptions) -> None:
    """Measure boots, sizes and memory, and write docs/figures.md."""
    from tools.bench import boot

    boot.run(measured)


@job()
def bench_agent(measured: BenchOptions) -> None:
    """Measure what the agent needs and how quickly it answers, and write docs/figures.md."""
    from tools.bench import agent

    agent.run(measured)


@job()
def bench_storage(measured: BenchOptions) -> None:
    """Measure how quickly guests work on their storages, and write docs/figures.md."""
    from tools.bench import storage

    storage.run(measured)


@job()
def bench_tests(measured: BenchOptions) -> None:
    """Measure what all tests take, from nothing and again, and write docs/figures.md."""
    from tools.bench import tests

    tests.run(measured)


releases = Collection("release")
releases.add_task(release, "release", default=True)
releases.add_task(release_verify, "verify")
releases.add_task(release_keygen, "keygen")

ci = Collection("ci")
ci.add_task(ci_matrix, "matrix")
ci.add_task(ci_init, "init")
ci.add_task(ci_summary, "summary")

bench = Collection("bench")
bench.add_task(bench_matrix, "matrix")
bench.add_task(bench_build, "build")
bench.add_task(bench_boot, "boot")
bench.add_task(bench_agent, "agent")
bench.add_task(bench_storage, "storage")
bench.add_task(bench_tests, "tests")

namespace = Collection(
    build,
    kernel,
    agent,
    rootfs,
    initrd,
    image,
    check,
    conform,
    run,
    releases,
    publish,
    fetch,
    install,
    overhead,
    ci,
    lock,
    why,
    test,
    doctor,
    clean,
    bench,
)
judge(namespace)
