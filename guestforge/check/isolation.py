"""What a container with the capabilities of every engine must not be able to do to its guest and to its neighbours."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

from guestforge.agent.errors import AgentError, Code, RpcError
from guestforge.agent.spec import Process, Spec, process
from guestforge.check.engine import CheckFailure
from guestforge.check.exercise import Answer
from guestforge.check.probe import PROBE
from guestforge.check.stage import Inhabited, Stage, expect, with_cgroup
from guestforge.check.storages import DISK

ANSWERS: Final = 2.0  # seconds in which an agent answers, whatever a container does
HARM: Final = 0.3  # seconds that a container has to do harm before anybody asks
ASKED: Final = 3  # times that others are asked meanwhile
KMSG: Final = "char 1:11"
# Devices that every container has: null, zero, full, random, urandom, tty, ptmx.
OWN: Final = frozenset(f"char {number}" for number in ("1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:2"))
WRITABLE_CGROUP: Final = "/run"  # where a container has its cgroup to write to, as some are given
# The errors that may say of what no container's privilege gives that it was refused.
DENIED: Final = frozenset(("EPERM", "EACCES", "ENOSYS"))


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is tried of what can be tried more or less: directories, and the processes that a fork bomb may have.

    With None that is what an agent leaves to a container whose specification limits none.
    """

    directories: tuple[str, ...]
    processes: int | None


# Of each check, as each build has two: an emulated guest takes 10 ms to end a process. And of the tests.
BRIEF: Final = Extent(("/proc", "/sys/fs", "/sys/kernel"), 64)
WHOLE: Final = Extent(("/proc", "/sys"), None)


def prove(stage: Stage, extent: Extent = BRIEF) -> str:
    """Have a container do harm in each way that was found once; return the evidence."""
    disk = stage.storage(DISK)
    inmate = stage.inhabit("inmate", disk.mount_point, storages=[stage.words[DISK]], change=_with_cgroups)
    neighbour = stage.inhabit("neighbour", disk.mount_point)
    devices = _devices(inmate)
    files = _files(inmate, extent.directories)
    calls = _calls(inmate)
    _links(stage, inmate)
    _device_through_a_mount(stage, inmate)
    _processes_are_limited(inmate)
    slowest = max(_stops_newcomers(stage, neighbour), _takes_processes(stage, neighbour, extent.processes))
    stage.end_all()
    return (
        f"{devices} devices, {files} files of /proc and /sys, {calls} calls, a link and a mount of a device refused;"
        f" answers within {slowest:.2f} s beside a fork bomb and a container that stops newcomers"
    )


def _devices(inmate: Inhabited) -> int:
    said = inmate.ask(("devices",))
    opened, refused = _names(said, "opened"), _names(said, "refused")
    if more := sorted(set(opened) - OWN):
        raise CheckFailure(f"a container opened devices that are not its own: {', '.join(more)}"[:300])
    if KMSG not in refused or not any(name.startswith("block ") for name in refused):
        raise CheckFailure(f"the kernel's log or the guest's disks were not tried: {refused!r:.200}")
    return len(refused)


def _files(inmate: Inhabited, directories: tuple[str, ...]) -> int:
    said = inmate.ask(("writable", *directories))
    if opened := _names(said, "opened"):
        raise CheckFailure(f"a container may write to the guest's {', '.join(opened)}"[:300])
    tried = said.get("tried")
    if not isinstance(tried, int) or tried < 100:
        raise CheckFailure(f"no more than {tried!r:.40} files of /proc and /sys were tried")
    return tried


def _calls(inmate: Inhabited) -> int:
    calls = inmate.ask(("attempt",)).get("calls")
    if not isinstance(calls, dict) or not calls:
        raise CheckFailure("no system calls were tried")
    done = [f"{name} ({error!r:.40})" for name, error in calls.items() if error not in DENIED]
    if done:
        raise CheckFailure(f"a container may do what only the guest may: {', '.join(sorted(done))}"[:300])
    return len(calls)


def _names(said: Answer, key: str) -> list[str]:
    names = said.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckFailure(f"{key} is {names!r:.80}, not a list of names")
    return names


def _links(stage: Stage, inmate: Inhabited) -> None:
    """A volume in which a container has put a link to the guest's root in place of a directory."""
    inmate.ask(("symlink", "/", "/out/way-out"))
    if _with_mount(stage, "through-a-link", "out/way-out"):
        raise CheckFailure("the source of a mount was found through a link that a container had made")


def _device_through_a_mount(stage: Stage, inmate: Inhabited) -> None:
    inmate.ask(("mknod", "/out/node", "char", "1", "11"))
    if other := _with_mount(stage, "with-a-node", "out/node"):  # an agent may refuse the mount itself
        expect("the error of a device that came by a mount", other.ask(("opens", "/bound")).get("error"), "EPERM")
        stage.end(other.name)


def _with_mount(stage: Stage, name: str, path: str) -> Inhabited | None:
    """Start a container that has a path of the disk at /bound; return None where the agent refuses it."""
    disk = stage.storage(DISK).mount_point

    def change(spec: Spec) -> None:
        spec.Mounts.add(destination="/bound", type="bind", source=f"{disk}/{path}", options=("rbind", "rw"))

    try:
        return stage.inhabit(name, disk, change=change)
    except RpcError as e:
        if e.code == Code.DEADLINE_EXCEEDED:
            raise
        return None


def _stops_newcomers(stage: Stage, neighbour: Inhabited) -> float:
    """A container that stops whatever enters it, before that is a program: whoever enters it waits, and nobody else."""
    stage.start("stopper", stage.storage(DISK).mount_point, (PROBE[0], "stop-others", "1000"))
    with ThreadPoolExecutor(1) as visitor:
        entry = visitor.submit(stage.client.exec_process, "stopper", "visitor", _exits(0), stage.left())
        try:
            slowest = _answers(stage, neighbour)
        finally:
            stage.end("stopper")
        if isinstance(error := entry.exception(), Exception) and not isinstance(error, AgentError):
            raise error
    return slowest


def _with_cgroups(spec: Spec) -> None:
    with_cgroup(spec)
    spec.Mounts.add(destination=WRITABLE_CGROUP, type="cgroup", source="cgroup", options=("rw",))


def _processes_are_limited(inmate: Inhabited) -> None:
    """A container whose specification has no limit has one, and can't change it where it may write to its cgroup."""
    limit = inmate.ask(("limits",)).get("pids.max")
    if not isinstance(limit, str) or not limit.isdecimal():
        raise CheckFailure(f"a container may have {limit!r:.40} processes")
    expect("the root of its cgroup namespace", inmate.ask(("cgroup",)).get("path"), "/")
    error = inmate.ask(("put", f"{WRITABLE_CGROUP}/pids.max", "max")).get("error")
    if error not in DENIED:
        raise CheckFailure(f"a container may change its own limits: {error!r:.40}")


def _takes_processes(stage: Stage, neighbour: Inhabited, processes: int | None) -> float:
    """A fork bomb: it gets what a container may have, and is ended."""

    def change(spec: Spec) -> None:
        spec.Linux.Resources.Pids.Limit = processes or 0  # 0 is none of its own

    disk = stage.storage(DISK)
    stage.start("bomb", disk.mount_point, (PROBE[0], "bomb"), change=change, capabilities=())
    time.sleep(HARM)
    slowest = _answers(stage, neighbour)
    expect("the status of a fork bomb that was ended", stage.end("bomb"), 128 + signal.SIGKILL)
    return slowest


def _answers(stage: Stage, neighbour: Inhabited) -> float:
    """Ask the agent and another container's program, and start one there; return the seconds of the slowest answer."""
    others = (("agent", stage.client.check_health), ("other container", partial(neighbour.ask, ("stat", "/"))))
    slowest = 0.0
    for _ in range(ASKED):
        for who, ask in others:
            begun = time.monotonic()
            ask()
            slowest = max(slowest, seconds := time.monotonic() - begun)
            if seconds > ANSWERS:
                raise CheckFailure(f"the {who} answered after {seconds:.1f} s, {ANSWERS:g} at most")
    stage.client.exec_process(neighbour.name, "beside", _exits(7), stage.left())
    expect("the status beside it", stage.client.wait_process(neighbour.name, "beside", stage.left()), 7)
    return slowest


def _exits(code: int) -> Process:
    return process([PROBE[0], "exit", str(code)])
