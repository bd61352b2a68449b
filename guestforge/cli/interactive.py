"""`./invoke run`: a guest of a recipe on the user's terminal, or a container in one."""

from dataclasses import replace

from guestforge.cli import container as contained
from guestforge.cli.guest import planned, prepared
from guestforge.core.errors import CheckError, UserError
from guestforge.core.progress import say
from guestforge.project.options import DEBUG, ContainerOptions, DebugOptions, TerminalOptions
from guestforge.vmm.interactive import run_interactive


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
    plan, vsock = planned(prepared(built), terminal)
    say(f"vsock: {vsock.describe()}; the console is kept in {plan.console_log}")
    ended = run_interactive(plan)
    if ended.returncode != 0:
        raise CheckError(str(ended), hint=f"the console is in {plan.console_log}")
