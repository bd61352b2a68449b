"""The table of checks: what each one proves, in the order in which they run.

A new check is a function of a `Boot` that returns its evidence, and a row in CHECKS. A new storage is one of
`storages.prepare`, and a row made by `_on_storage`.
"""

from collections.abc import Callable

from guestforge.check import containers, exercise, isolation
from guestforge.check.boot import Boot
from guestforge.check.engine import Check, CheckFailure
from guestforge.check.exercise import ExerciseError
from guestforge.check.hostview import Ext4Disk
from guestforge.check.stage import Stage
from guestforge.core.errors import CheckError

POWEROFF_TIMEOUT = 15.0  # seconds from the request until QEMU has ended
EXCERPT_LINES = 20

# What ends a run without being the fault of the check that it struck. Other kinds speak against the one that ran.
BLAME = {"virtiofs-died": "virtio-fs", "warning": "console-clean"}


def kernel_up(boot: Boot) -> str:
    """The console shows the first line of the kernel that was built, and of no other."""
    wanted = f"Linux version {boot.machine.artifacts.kernel_release}"
    # a space follows the release: 6.12.1 is not 6.12.11
    if boot.guest.wait_console(f"{wanted} ", boot.timeout) is None:
        raise CheckFailure(f"no {wanted!r} on the console within {boot.timeout:g} s", _console(boot))
    boot.reached("kernel_up")
    return wanted


def agent_ready(boot: Boot) -> str:
    """The agent answers Health with SERVING over vsock."""
    if not boot.guest.wait_serving(boot.timeout):
        raise CheckFailure(f"the agent did not say SERVING within {boot.timeout:g} s", _console(boot))
    seconds = boot.reached("agent_ready")
    boot.measurements = boot.guest.measure()
    return f"SERVING after {seconds:.2f} s"


def agent_details(boot: Boot) -> str:
    """The agent tells its version, and has the drivers that are asked of it: ours of all storages under test."""
    details = boot.details
    missing = {storage.driver for storage in boot.storages} - details.storage_handlers
    if missing and (boot.machine.artifacts.own_agent or not any(map(boot.asks_for, boot.storages))):
        raise CheckFailure(f"the agent has no storage driver {', '.join(sorted(missing))}")
    if not details.version:
        raise CheckFailure("the agent tells no version")
    return f"version {details.version}, drivers {' '.join(sorted(details.storage_handlers))}"


def use_storage(boot: Boot, name: str) -> str:
    """A container on the storage sees what the host put there, and what it does there is done."""
    storage = boot.prepared(name)
    left = boot.countdown()
    try:
        with boot.guest.probing(storage, left) as ask:
            exercise.perform(storage.steps, ask, storage.view() if storage.live else None)
    except ExerciseError as e:
        raise CheckFailure(str(e), _console(boot)) from e
    boot.guest.release(storage, left())
    return (
        f"{storage.fstype}: {len(storage.steps)} steps right in the guest{' and on the host' if storage.live else ''}"
    )


def look_at_storage(boot: Boot, name: str) -> str:
    """The host finds all that the guest did, now that the guest is off."""
    storage = boot.storage(name)
    view = storage.view()
    if isinstance(view, Ext4Disk) and view.needs_recovery():
        raise CheckFailure("the guest left the file system mounted: its journal holds what the disk lacks")
    try:
        exercise.look_back(storage.steps, view)
    except ExerciseError as e:
        raise CheckFailure(f"after the guest was off: {e}") from e
    except CheckError as e:  # debugfs does not come to an end on a file system that the guest has damaged
        raise CheckFailure(e.message, e.excerpt) from e
    return "all of it there after power-off"


def use_containers(boot: Boot, proof: Callable[[Stage], str], *storages: str) -> str:
    """Containers are driven as a container runtime does it, with the storages of some checks."""
    for name in storages:
        boot.prepared(name)
    return boot.guest.drive(proof, boot.countdown())


def poweroff(boot: Boot) -> str:
    """DestroySandbox makes the guest power itself off, and QEMU ends well."""
    return boot.guest.power_off(min(POWEROFF_TIMEOUT, boot.timeout))


def console_clean(boot: Boot) -> str:
    """Nothing on the whole console speaks of a fault."""
    faults = boot.guest.console_faults()
    if faults:
        raise CheckFailure(f"{len(faults)} lines that no healthy guest prints", "\n".join(faults[:EXCERPT_LINES]))
    return "no panic, oops, lockup or warning"


def _console(boot: Boot) -> str:
    return boot.guest.console_tail(EXCERPT_LINES)


def _on_storage(name: str, served_by: str | None = None) -> Check[Boot]:
    return Check(
        name,
        run=lambda boot: use_storage(boot, name),
        settle=lambda boot: look_at_storage(boot, name),
        needs=("agent-details",),
        settle_needs=("poweroff",),
        served_by=(lambda _: served_by) if served_by else (lambda boot: boot.virtio_fs_server),
    )


def _of_containers(name: str, proof: Callable[[Stage], str], *storages: str) -> Check[Boot]:
    def excuse(boot: Boot) -> str | None:
        return None if boot.machine.artifacts.own_agent else "it has been tried with our own agent alone"

    return Check(name, lambda boot: use_containers(boot, proof, *storages), needs=storages, excuse=excuse)


CHECKS: tuple[Check[Boot], ...] = (
    Check("kernel-up", kernel_up),
    Check("agent-ready", agent_ready, needs=("kernel-up",), served_by=lambda boot: boot.vsock_device),
    Check("agent-details", agent_details, needs=("agent-ready",)),
    _on_storage("virtio-blk", served_by="qemu"),
    _on_storage("virtio-fs"),
    _on_storage("virtio-9p", served_by="qemu"),
    _of_containers("container", containers.prove, "virtio-blk", "virtio-fs"),
    _of_containers("isolation", isolation.prove, "virtio-blk"),
    Check("poweroff", poweroff, needs=("agent-ready",)),
    Check("console-clean", settle=console_clean, settle_needs=("kernel-up",)),
)
