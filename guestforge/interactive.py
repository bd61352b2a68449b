"""`./invoke run`: a guest of a recipe on the user's terminal."""

from guestforge.arch import Arch
from guestforge.check.live import guest_plan
from guestforge.check.options import ARTIFACTS
from guestforge.check.report import Artifact
from guestforge.cli import Chosen
from guestforge.commands import accelerator_of, arches_of, options_of
from guestforge.errors import CheckError, UserError
from guestforge.graph import needs_of
from guestforge.host.packages import ensure
from guestforge.pipeline import Pipeline
from guestforge.progress import say
from guestforge.vmm.accel import choose_accelerator
from guestforge.vmm.interactive import run_interactive
from guestforge.vmm.needs import boot_needs
from guestforge.vmm.vsock import choose_vsock

GUEST = "debug"  # the recipe with a shell in it
CONSOLE_LOG = "run-console.log"


def run(chosen: Chosen) -> None:
    """Build what is missing, start the guest, and return when it has ended or the user has left it.

    Raises CheckError for a guest that did not end well, UserError for options that make no sense.
    """
    arch = _one_arch(chosen)
    booted = _booted(chosen)
    wanted = accelerator_of(chosen)
    pipeline = Pipeline(arch, options_of(chosen, GUEST))
    pipeline.try_places()
    ensure((*needs_of(*pipeline.steps.published), *boot_needs(arch)))
    artifacts = pipeline.guest_artifacts()
    accelerator = choose_accelerator(wanted, arch, artifacts.kernel)
    vsock = choose_vsock()
    plan = guest_plan(artifacts, booted, accelerator.name, vsock.vsock, pipeline.output / CONSOLE_LOG)
    say(f"{arch.name} {booted} of {pipeline.options.guest}: {accelerator.name} ({accelerator.reason})")
    say(f"vsock: {vsock.describe()}; the console is kept in {plan.console_log}")
    plan.console_log.parent.mkdir(parents=True, exist_ok=True)
    ended = run_interactive(plan)
    if ended.returncode != 0:
        raise CheckError(str(ended), hint=f"the console is in {plan.console_log}")


def _one_arch(chosen: Chosen) -> Arch:
    arches = arches_of(chosen)
    if len(arches) != 1:
        raise UserError(f"--arch names {len(arches)} architectures; a terminal has room for one guest")
    return arches[0]


def _booted(chosen: Chosen) -> Artifact:
    name = chosen.one_of("artifact", ARTIFACTS)
    return next(artifact for artifact in ARTIFACTS if artifact == name)
