"""The files that a measurement leaves: figures as JSON and as a table, and a RuntimeClass. See docs/kubernetes.md."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from guestforge.arch import Arch
from guestforge.core.files import atomic_file
from guestforge.overhead.figures import MIB, SPREAD, TOTAL, Figure, Measured, PodFixed, figures
from guestforge.overhead.host import Host
from guestforge.overhead.measure import SETTLES
from guestforge.overhead.runtimeclass import runtimeclass

DIRECTORY: Final = "overhead"  # in a guest's output directory
JSON, TABLE, CONSOLE = ("overhead.json", "overhead.md", "console.log")
SCHEMA: Final = 1  # raised when a key changes its meaning or goes; a new key does not raise it

# For scale: what Kata 4.1.0 ships for all guests under QEMU, confidential ones and those with a GPU aside
# https://github.com/kata-containers/kata-containers/blob/4.1.0/tools/packaging/kata-deploy/helm-chart/kata-deploy/templates/runtimeclasses.yaml
KATA: Final = {"version": "4.1.0", "memory": "320Mi", "cpu": "250m"}

METHOD: Final = (
    "Each boot is a machine of its own, with a virtio-fs share in the sandbox and a root directory in it for each"
    " container, whose program waits for input that does not come. After the state is reached the guest is left alone"
    " for {settles:g} s, then for {idle:g} s more over which processor time is counted and scaled to a minute; then"
    " memory is read: the programs' from smaps_rollup, with all that they started, the guest's from its own"
    " /proc/meminfo, the containers' from their cgroups. The spread is {spread}, over {boots} boots of each state."
)
FIXED: Final = (
    "podFixed is the most that any boot of any state needed, with {headroom} % on top. Memory is the PSS of all"
    " programs of the machine together, in which a page that several of them have is counted once, without what the"
    " guest's cgroups count for the containers; cpu is the processor time of these programs when nothing happens."
)
TCG: Final = (
    "Measured under TCG, which holds translated code in QEMU's memory and emulates each instruction: not what a"
    " cluster with KVM has."
)

LABELS: Final = {
    "guest_used_kib": "guest memory used",
    "qemu_rss_kib": "QEMU, RSS",
    "qemu_pss_kib": "QEMU, PSS",
    "virtio_fs_rss_kib": "virtio-fs server, RSS",
    "virtio_fs_pss_kib": "virtio-fs server, PSS",
    "vsock_rss_kib": "vsock device, RSS",
    "vsock_pss_kib": "vsock device, PSS",
    f"{TOTAL}_pss_kib": "all of them, PSS",
    "containers_kib": "containers' own memory",
    "overhead_kib": "**overhead**: all of them without that",
    "qemu_cpu_seconds_a_minute": "QEMU, processor in an idle minute",
    "virtio_fs_cpu_seconds_a_minute": "virtio-fs server, processor in an idle minute",
    "vsock_cpu_seconds_a_minute": "vsock device, processor in an idle minute",
    f"{TOTAL}_cpu_seconds_a_minute": "all of them, processor in an idle minute",
}


@dataclass(frozen=True, slots=True)
class Measurement:
    """All that is written of one guest: what it was, what ran it, when and where, what was seen.

    `load` is the host's before the first boot and after the last one, `at` the time in ISO 8601.
    """

    arch: Arch
    guest: str
    artifact: str
    digests: Mapping[str, str]
    memory_mib: int
    cpus: int
    accelerator: str
    accelerator_reason: str
    qemu: str
    virtio_fs_server: str
    vsock_device: str
    host: Host
    at: str
    load: tuple[float, float]
    idle: float
    measured: tuple[Measured, ...]
    fixed: PodFixed

    @property
    def tcg(self) -> bool:
        """Whether the guest was emulated, so that its overhead is not a cluster's."""
        return self.accelerator == "tcg"

    @property
    def boots(self) -> int:
        """How many boots there were of each state."""
        return len(self.measured[0].samples)

    @property
    def method(self) -> str:
        """How it was measured, in words."""
        return METHOD.format(settles=SETTLES, idle=self.idle, spread=SPREAD, boots=self.boots)

    @property
    def fixed_method(self) -> str:
        """What podFixed is made of, in words."""
        return FIXED.format(headroom=self.fixed.headroom)


def runtimeclass_name(arch: Arch) -> str:
    """Return the name of the file with an architecture's RuntimeClass."""
    return f"runtimeclass-{arch.name}.yaml"


def write(found: Measurement, place: Path, handler: str | None) -> None:
    """Write the files of a measurement, with a RuntimeClass where there is a handler for it.

    What an earlier one left goes first, its RuntimeClass before all: whatever is there at any moment is of one.
    """
    for name in (runtimeclass_name(found.arch), TABLE):
        (place / name).unlink(missing_ok=True)
    _write(place / JSON, json.dumps(to_json(found), indent=1, ensure_ascii=False) + "\n")
    _write(place / TABLE, table(found))
    if handler is not None:
        text = runtimeclass(found.arch, handler, found.accelerator, found.fixed, tuple(comments(found)))
        _write(place / runtimeclass_name(found.arch), text)


def to_json(found: Measurement) -> dict[str, Any]:
    """Return a measurement as JSON values."""
    return {
        "schema": SCHEMA,
        "arch": found.arch.name,
        "guest": found.guest,
        "artifact": found.artifact,
        "digests": dict(found.digests),
        "measured_at": found.at,
        "machine": {"memory_mib": found.memory_mib, "cpus": found.cpus},
        "accelerator": found.accelerator,
        "accelerator_reason": found.accelerator_reason,
        "warning": TCG if found.tcg else None,
        "host": asdict(found.host),
        "load": {"before": found.load[0], "after": found.load[1]},
        "qemu": found.qemu,
        "virtio_fs_server": found.virtio_fs_server,
        "vsock_device": found.vsock_device,
        "method": {
            "text": f"{found.method} {found.fixed_method}",
            "boots": found.boots,
            "settle_seconds": SETTLES,
            "idle_seconds": found.idle,
            "spread": SPREAD,
        },
        "states": [_state(each) for each in found.measured],
        "pod_fixed": asdict(found.fixed),
        "kata": KATA,
    }


def _state(measured: Measured) -> dict[str, Any]:
    return {
        "name": measured.state.name,
        "containers": measured.state.containers,
        "figures": {name: _figure(each) for name, each in figures(measured.samples).items()},
        "boots": [asdict(sample) for sample in measured.samples],
    }


def _figure(each: Figure) -> dict[str, float]:
    return {"median": each.median, "least": each.least, "most": each.most, "spread": round(each.spread, 4)}


def comments(found: Measurement) -> Iterator[str]:
    """Yield what the RuntimeClass says of where it comes from."""
    fixed = found.fixed
    yield f"The overhead of {found.guest} ({found.artifact}) for {found.arch.name}, measured by guestforge {found.at}."
    if found.tcg:
        yield f"WARNING: {TCG}"
    yield f"accelerator: {found.accelerator} ({found.accelerator_reason})"
    yield f"host: {_host(found.host)}"
    yield f"{found.qemu}; {found.virtio_fs_server}; {found.vsock_device}"
    on_top = f"and {fixed.headroom} % headroom"
    yield f"memory: {_mib(fixed.memory.amount)} at most ({fixed.memory.state}), {on_top}"
    yield f"cpu: {_cpu(fixed.cpu.amount)} of a processor in an idle minute at most ({fixed.cpu.state}), {on_top}"


def table(found: Measurement) -> str:
    """Return a measurement as Markdown."""
    return "\n".join(_table(found))


def _table(found: Measurement) -> Iterator[str]:
    yield f"# Overhead of {found.guest} ({found.artifact}) for {found.arch.name}"
    yield ""
    if found.tcg:
        yield from (f"**{TCG}**", "")
    yield f"- measured: {found.at}"
    yield f"- accelerator: {found.accelerator} ({found.accelerator_reason})"
    yield f"- host: {_host(found.host)}; load {found.load[0]} before, {found.load[1]} after"
    yield f"- {found.qemu}; {found.virtio_fs_server}; {found.vsock_device}"
    yield f"- machine: {found.cpus} processors, {found.memory_mib} MiB"
    yield ""
    yield f"| median (spread) | {' | '.join(each.state.name for each in found.measured)} |"
    yield f"| --- |{' ---: |' * len(found.measured)}"
    yield from _rows(found.measured)
    yield ""
    fixed = found.fixed
    yield "| podFixed | memory | cpu |"
    yield "| --- | ---: | ---: |"
    yield f"| measured, with {fixed.headroom} % headroom | {fixed.memory_mib}Mi | {fixed.cpu_millicores}m |"
    yield f"| for scale: what Kata {KATA['version']} ships for QEMU | {KATA['memory']} | {KATA['cpu']} |"
    yield ""
    yield found.method
    yield ""
    yield found.fixed_method
    yield ""


def _rows(measured: tuple[Measured, ...]) -> Iterator[str]:
    by_state = [figures(each.samples) for each in measured]
    for name, label in LABELS.items():
        if name in by_state[0]:
            yield f"| {label} | {' | '.join(_cell(name, each[name]) for each in by_state)} |"


def _cell(name: str, each: Figure) -> str:
    return f"{_mib(each.median) if name.endswith('_kib') else _cpu(each.median)} ({each.spread:.1%})"


def _host(host: Host) -> str:
    return f"{host.processors} processors ({host.model}), {host.memory_mib} MiB, Linux {host.kernel}"


def _mib(kib: float) -> str:
    return f"{kib / MIB:.1f} MiB"


def _cpu(seconds: float) -> str:
    return f"{seconds:.3f} s"


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))
