"""`./invoke run`: a guest of a recipe on the user's terminal, or a container in one."""

from dataclasses import replace

from guestforge.check.live import guest_plan
from guestforge.cli import container as contained
from guestforge.core.errors import CheckError, UserError
from guestforge.core.graph import needs_of
from guestforge.core.progress import say
from guestforge.host.packages import ensure
from guestforge.pipeline import Pipeline
from guestforge.project.options import DEBUG, ContainerOptions, DebugOptions, TerminalOptions
from guestforge.vmm.accel import choose_accelerator
from guestforge.vmm.interactive import run_interactive
from guestforge.vmm.needs import boot_needs
from guestforge.vmm.vsock import choose_vsock

CONSOLE_LOG = "run-console.log"


def run(built: DebugOptions, terminal: TerminalOptions, container: ContainerOptions) -> int | None:
    """Build what is missing, start the guest, and return when it has ended or the user has left it.

    With an image that is the exit code of its program. Raises CheckError for a guest that did not end well, UserError
    for options that make no sense.
    """
    if len(built.arches) != 1:
        raise UserError(f"--arch names {len(built.arches)} architectures; a terminal has room for one guest")
    if container.oci:
        guest = built.guest or built.project.settings.guest
        return contained.run(replace(built, guest=guest), terminal, container)
    if container != ContainerOptions():
        raise UserError("there is no image to run", hint="--oci names one; what was given is for a container of it")
    _run_guest(replace(built, guest=built.guest or DEBUG), terminal)
    return None


def _run_guest(built: DebugOptions, terminal: TerminalOptions) -> None:
    arch = built.arches[0]
    pipeline = Pipeline(arch, built)
    pipeline.try_places()
    ensure((*needs_of(*pipeline.steps.published), *boot_needs(arch)))
    artifacts = pipeline.guest_artifacts()
    accelerator = choose_accelerator(terminal.accel, arch, artifacts.kernel)
    vsock = choose_vsock()
    plan = guest_plan(artifacts, terminal.artifact, accelerator.name, vsock.vsock, pipeline.output / CONSOLE_LOG)
    say(f"{arch.name} {terminal.artifact} of {pipeline.options.guest}: {accelerator.name} ({accelerator.reason})")
    say(f"vsock: {vsock.describe()}; the console is kept in {plan.console_log}")
    plan.console_log.parent.mkdir(parents=True, exist_ok=True)
    ended = run_interactive(plan)
    if ended.returncode != 0:
        raise CheckError(str(ended), hint=f"the console is in {plan.console_log}")
