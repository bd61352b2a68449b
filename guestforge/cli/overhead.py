"""`./invoke overhead`: what guests cost a host besides their containers, measured here."""

from datetime import UTC, datetime
from pathlib import Path

from guestforge.arch import Arch
from guestforge.bootable import Bootable, guest_needs, make_guests
from guestforge.check.artifacts import DEFAULT_TIMEOUT, GuestArtifacts
from guestforge.core.errors import UserError
from guestforge.core.graph import Evaluation
from guestforge.core.jobserver import Jobserver
from guestforge.core.progress import bar, complain, say
from guestforge.core.store import Store
from guestforge.host.packages import ensure
from guestforge.overhead.figures import Measured, pod_fixed
from guestforge.overhead.host import load, this_host
from guestforge.overhead.measure import STATES, Sample, State, Wanted, measure
from guestforge.overhead.report import CONSOLE, DIRECTORY, JSON, TABLE, TCG, Measurement, runtimeclass_name, write
from guestforge.project.options import BuildOptions, CheckOptions, OverheadOptions
from guestforge.publish.fetched import guest_to_boot
from guestforge.vmm.accel import Accelerator, choose_accelerator
from guestforge.vmm.emulator import choose_emulator
from guestforge.vmm.virtiofs import choose_virtiofs
from guestforge.vmm.vsock import choose_vsock

NOT_WRITTEN = 1  # the exit code where a RuntimeClass was not written


def overhead(built: BuildOptions, checks: CheckOptions, asked: OverheadOptions) -> int:
    """Measure the guest of each architecture, having built what is missing; return the exit code.

    Raises CheckError for a guest that does not come so far, UserError for what can't be.
    """
    evaluation, jobs = Evaluation(Store()), Jobserver(built.jobs)
    guests = [guest_to_boot(arch, built, evaluation, jobs) for arch in built.arches]
    for guest in guests:
        guest.try_places()
    ensure(need for guest in guests for need in guest_needs(guest))
    make_guests(*guests, booted=(asked.artifact,))
    return max(_one(guest, checks, asked) for guest in guests)


def _one(guest: Bootable, checks: CheckOptions, asked: OverheadOptions) -> int:
    artifacts = guest.guest_artifacts(asked.artifact)
    accelerator = choose_accelerator(checks.accel, artifacts.arch, artifacts.kernel)
    refused = accelerator.name == "tcg" and not asked.allow_tcg
    say(f"{artifacts.arch.name} {asked.artifact} of {artifacts.guest}: {accelerator.name} ({accelerator.reason})")
    place = guest.output / DIRECTORY
    place.mkdir(parents=True, exist_ok=True)
    found = _measure(artifacts, accelerator, checks, asked, place / CONSOLE)
    write(found, place, None if refused else asked.handler)
    return _tell(found, place, refused=refused)


def _measure(
    artifacts: GuestArtifacts, accelerator: Accelerator, checks: CheckOptions, asked: OverheadOptions, console_log: Path
) -> Measurement:
    """Boot and measure, all states in turn, so that a host that changes its speed concerns all of them."""
    emulator = choose_emulator(artifacts.arch, accelerator.name)
    server = choose_virtiofs(artifacts.arch, checks.virtio_fs_server)
    limit = checks.timeout or DEFAULT_TIMEOUT[accelerator.name]
    wanted = Wanted(artifacts, asked.artifact, accelerator.name, server, emulator, console_log, asked.idle, limit)
    before = load()
    samples = _samples(wanted, asked.boots, artifacts.arch)
    measured = tuple(Measured(state, tuple(samples[state])) for state in STATES)
    return Measurement(
        arch=artifacts.arch,
        guest=artifacts.guest,
        artifact=asked.artifact,
        digests=artifacts.booted(asked.artifact),
        memory_mib=artifacts.memory_mib,
        cpus=artifacts.cpus,
        accelerator=accelerator.name,
        accelerator_reason=accelerator.reason,
        qemu=emulator.version,
        virtio_fs_server=server.describe(),
        vsock_device=choose_vsock().describe(),
        host=this_host(),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        load=(before, load()),
        idle=asked.idle,
        measured=measured,
        fixed=pod_fixed(measured, asked.headroom),
    )


def _samples(wanted: Wanted, boots: int, arch: Arch) -> dict[State, list[Sample]]:
    samples: dict[State, list[Sample]] = {state: [] for state in STATES}
    with bar(f"measuring {arch.name}", boots * len(STATES), "boots") as shown:
        for state in STATES * boots:
            samples[state].append(measure(wanted, state))
            shown.update()
    return samples


def _tell(found: Measurement, place: Path, *, refused: bool) -> int:
    say(f"{place / JSON}, {place / TABLE}: the figures; boots of each state: {found.boots}")
    if not refused:
        fixed = found.fixed
        what = f"memory {fixed.memory_mib}Mi, cpu {fixed.cpu_millicores}m, {fixed.headroom} % headroom in both"
        say(f"{place / runtimeclass_name(found.arch)}: {what}")
        if found.tcg:
            say(TCG)
        return 0
    complain(
        UserError(
            f"the figures were written to {place}, and no {runtimeclass_name(found.arch)}: they were measured under TCG"
            f" ({found.accelerator_reason}), and a cluster's guests run under KVM",
            hint="measure on a node of the cluster; --allow-tcg writes the RuntimeClass all the same",
        ),
        found.arch.name,
    )
    return NOT_WRITTEN
