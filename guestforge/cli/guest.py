"""A guest on the user's terminal: built where it is missing, and the machine that it gets."""

from typing import Final

from guestforge.bootable import Bootable, make_guests
from guestforge.check.live import guest_plan
from guestforge.core.graph import Evaluation, needs_of
from guestforge.core.jobserver import Jobserver
from guestforge.core.need import Need
from guestforge.core.progress import say
from guestforge.core.store import Store
from guestforge.host.packages import ensure
from guestforge.project.options import DebugOptions, TerminalOptions
from guestforge.publish.fetched import guest_to_boot
from guestforge.vmm.accel import choose_accelerator
from guestforge.vmm.needs import boot_needs
from guestforge.vmm.plan import MachinePlan
from guestforge.vmm.vsock import VsockChoice, choose_vsock

CONSOLE_LOG: Final = "run-console.log"


def prepared(built: DebugOptions, *needs: Need) -> Bootable:
    """Return the guest of the one architecture, built where it is missing, once it and the `needs` can be had.

    Raises UserError for what can't be installed and for places that can't be written, BuildError for what fails.
    """
    arch = built.arches[0]
    guest = guest_to_boot(arch, built, Evaluation(Store()), Jobserver(built.jobs))
    guest.try_places()
    ensure((*needs_of(*guest.steps.published), *boot_needs(arch), *needs))
    make_guests(guest)
    return guest


def planned(guest: Bootable, terminal: TerminalOptions) -> tuple[MachinePlan, VsockChoice]:
    """Return the guest's own machine, and why it has its vsock device."""
    artifacts = guest.guest_artifacts()
    accelerator = choose_accelerator(terminal.accel, artifacts.arch, artifacts.kernel)
    vsock = choose_vsock()
    console_log = guest.output / CONSOLE_LOG
    plan = guest_plan(artifacts, terminal.artifact, accelerator.name, vsock.vsock, console_log)
    say(f"{artifacts.arch.name} {terminal.artifact} of {artifacts.guest}: {accelerator.name} ({accelerator.reason})")
    console_log.parent.mkdir(parents=True, exist_ok=True)
    return plan, vsock
