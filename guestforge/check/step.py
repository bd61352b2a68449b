"""The step that proves a guest: its entry is the report of a check that passed. Of one that did not, none is kept."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from guestforge.arch import Arch
from guestforge.check.artifacts import GuestArtifacts
from guestforge.check.report import FILES, failed
from guestforge.core.files import atomic_copy
from guestforge.core.runtime import Runtime
from guestforge.core.step import NotKeptError, Step, Use, Used
from guestforge.image import ext4
from guestforge.project.options import Artifact, CheckOptions
from guestforge.vmm.emulator import Emulator, installed_emulator
from guestforge.vmm.needs import boot_needs
from guestforge.vmm.virtiofs import choose_virtiofs

STEP: Final = "check"
QEMU_MIB: Final = 512  # of QEMU itself, translations included, and of the programs behind the devices


def check_step(
    arch: Arch,
    artifact: Artifact,
    options: CheckOptions,
    *,
    guest: Callable[[], GuestArtifacts],
    uses: Mapping[str, Use],
    emulator: Callable[[Runtime], Emulator],
    boot: Mapping[str, Any],
    out: Path,
) -> Step:
    """Return the step that boots an artifact and checks it, with the files of `check.run.FILES`.

    `guest` has what is booted, `uses` the steps that made it, `boot` is the recipe's machine. Report, JUnit XML and
    console are written to `out` in any case. The step raises CheckError for a check that did not pass, and NotKeptError
    for one that passed without a part of it.
    """

    def inputs(runtime: Runtime) -> dict[str, Any]:
        return {
            "machine": asdict(arch),
            "boot": boot,
            "options": {name: value for name, value in asdict(options).items() if name != "verbose"},
            "qemu": emulators(arch, emulator, runtime),
            "virtio_fs_server": choose_virtiofs(arch, options.virtio_fs_server, runtime).describe(),
        }

    def make(made: Path, _used: Used, runtime: Runtime) -> None:
        from guestforge.check import live
        from guestforge.check.run import check_artifact

        report = check_artifact(live.start, guest(), artifact, out, options, runtime=runtime)
        if error := failed([report]):
            raise error
        if report.left_out:
            raise NotKeptError(f"without {', '.join(result.name for result in report.left_out)}; not kept")
        for name in FILES:
            atomic_copy(out / name, made / name)

    return Step(
        STEP,
        inputs,
        make,
        code=(__name__,),
        outputs=FILES,
        arch=arch.name,
        variant=artifact,
        uses=uses,
        needs=(*boot_needs(arch), *ext4.NEEDS),  # the disk under test is written and read on the host
        weight="guest",
        memory_mib=boot["memory_mib"] + QEMU_MIB,
        success="passed",
    )


def emulators(arch: Arch, emulator: Callable[[Runtime], Emulator], runtime: Runtime) -> list[str]:
    """Return the versions of the installed QEMU and of that which emulates the guest; none where none is installed."""
    if runtime.find_tool(arch.qemu) is None:
        return []
    return [installed_emulator(arch, runtime).version, emulator(runtime).version]
