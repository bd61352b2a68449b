"""All that a container runtime does with containers, verb by verb, with the effect of each seen from inside."""

import json
import secrets
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

from guestforge.agent.spec import QUOTA_PERIOD, Resources, Spec, limits, process
from guestforge.agent.storage import overlay
from guestforge.agent.tasks import Status
from guestforge.check import exercise
from guestforge.check.engine import CheckFailure
from guestforge.check.exercise import ExerciseError, Step
from guestforge.check.probe import PROBE
from guestforge.check.stage import Inhabited, Stage, expect, with_cgroup
from guestforge.check.storages import DISK, STORAGE_POINT

MIB: Final = 1 << 20
WRITTEN: Final = 100_001  # bytes of a file
FROZEN: Final = 0.3  # seconds in which a probe that is not frozen has long answered
ROWS, COLUMNS = 50, 132
UPPER: Final = f"{STORAGE_POINT}upper"
OVERLAY: Final = f"{STORAGE_POINT}overlay"


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is done of what can be done more or less often; `leak_kib` of memory may be gone after the rounds."""

    at_once: int  # processes of one container
    rounds: int  # containers that are made and removed
    streamed: int  # bytes through a process
    leak_kib: int


# Of each check, as each build has two, and what the tests do once for each architecture.
BRIEF: Final = Extent(at_once=3, rounds=5, streamed=MIB + 3, leak_kib=6 * 1024)
WHOLE: Final = Extent(at_once=50, rounds=100, streamed=16 * MIB, leak_kib=4 * 1024)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a container may take, and the files of its cgroup that say so."""

    memory: int
    processes: int
    quota: int  # microseconds of a processor in each period

    def resources(self) -> Resources:
        """Return them in the words of the OCI specification."""
        return limits(memory=self.memory, processes=self.processes, quota=self.quota)

    def files(self) -> dict[str, str]:
        """Return what the cgroup's files hold."""
        return {
            "memory.max": str(self.memory),
            "pids.max": str(self.processes),
            "cpu.max": f"{self.quota} {QUOTA_PERIOD}",
        }


FIRST_LIMITS: Final = Limits(192 * MIB, 420, 90_000)
LATER_LIMITS: Final = Limits(176 * MIB, 400, 80_000)
HUNGRY: Final = Limits(16 * MIB, 20, 100_000)


def prove(stage: Stage, extent: Extent = BRIEF) -> str:
    """Have containers live through all that a runtime does with them; return the evidence."""
    before = stage.held()
    main = _on_disk(stage)
    _on_share(stage)
    _on_overlay(stage)
    for verb in (_limits, _pause, _signals, _statuses, _terminal):
        verb(stage, main)
    _at_once(stage, main, extent.at_once)
    _stream(stage, main, extent.streamed)
    _out_of_memory(stage)
    stage.end_all()
    lost = _rounds(stage, extent.rounds)
    stage.settle(before)
    if lost > extent.leak_kib:
        raise CheckFailure(f"{lost} KiB of the guest's memory are gone with its containers, {extent.leak_kib} at most")
    return (
        f"roots ext4, virtiofs and overlay; each verb; {extent.at_once} processes at once; {extent.streamed} bytes"
        f" through one; {extent.rounds} rounds, none of {sum(before.values())} things and {lost} KiB left behind"
    )


# Roots


def _on_disk(stage: Stage) -> Inhabited:
    """A container with limits, which what follows is tried on."""

    def change(spec: Spec) -> None:
        spec.Linux.Resources.MergeFrom(FIRST_LIMITS.resources())
        with_cgroup(spec)

    disk = stage.storage(DISK)
    made = stage.inhabit("on-disk", disk.mount_point, storages=[stage.words[DISK]], change=change)
    _perform(exercise.root_steps(disk.tree, disk.fstype), made)
    return made


def _on_share(stage: Stage) -> None:
    share, seed = stage.storage("virtio-fs"), secrets.token_hex(16)
    made = stage.inhabit("on-share", share.mount_point, storages=[stage.words[share.check]])
    look = exercise.holds_pattern("out/by-container", seed, WRITTEN)
    written = exercise.writing(seed, WRITTEN, "/out/by-container", look)
    _perform((*exercise.root_steps(share.tree, share.fstype), written), made, share.view)


def _on_overlay(stage: Stage) -> None:
    """The lower layer is the share, which the host must find as it was; the upper one is a tmpfs."""
    share, seed = stage.storage("virtio-fs"), secrets.token_hex(16)
    storages = (stage.words[share.check], *overlay(OVERLAY, share.mount_point, UPPER))
    made = stage.inhabit("on-overlay", OVERLAY, storages=storages)
    written = exercise.writing(seed, WRITTEN, "/out/overlaid", exercise.is_gone("out/overlaid"))
    _perform((*exercise.root_steps(share.tree, "overlay"), written), made, share.view)


def _perform(steps: Sequence[Step], made: Inhabited, view: Callable[[], object] | None = None) -> None:
    try:
        exercise.perform(steps, made.ask, view() if view else None)  # type: ignore[arg-type]
    except ExerciseError as e:
        raise CheckFailure(f"container {made.name}: {e}") from e


# Verbs


def _limits(stage: Stage, main: Inhabited) -> None:
    for wanted in (FIRST_LIMITS, LATER_LIMITS):
        if wanted is not FIRST_LIMITS:
            stage.tasks.update(main.name, wanted.resources(), stage.left())
        said = main.ask(("limits",))
        expect("the container's cgroup", {name: said.get(name) for name in wanted.files()}, wanted.files())
        stats = stage.tasks.stats(main.name, stage.left())
        told = (stats.memory and stats.memory.limit, stats.process_limit)
        expect("the limit of memory and processes in Stats", told, (wanted.memory, wanted.processes))


def _pause(stage: Stage, main: Inhabited) -> None:
    stage.tasks.pause(main.name, stage.left())
    expect("the state of a paused container", stage.tasks.state(main.name).status, Status.PAUSED)
    with ThreadPoolExecutor(1) as asker:
        answer = asker.submit(main.ask, ("stat", "/"))
        done, _ = wait([answer], timeout=FROZEN)
        stage.tasks.resume(main.name, stage.left())
        answer.result()
    if done:
        raise CheckFailure("a paused container's program went on")
    expect("the state of a resumed container", stage.tasks.state(main.name).status, Status.RUNNING)


def _signals(stage: Stage, main: Inhabited) -> None:
    main.ask(("watch",))
    for number in (signal.SIGUSR1, signal.SIGTERM):
        stage.tasks.kill(main.name, number=number, timeout=stage.left())
        expect("the signal that came", main.ask(("caught", "10")).get("signal"), int(number))


def _statuses(stage: Stage, main: Inhabited) -> None:
    """How a process ends, by itself and by a signal."""
    tasks = stage.tasks
    for name, args, number, status in (
        ("exits", ("exit", "42"), None, 42),
        ("terminated", ("sleep", "1000"), signal.SIGTERM, 128 + signal.SIGTERM),
        ("killed", ("sleep", "1000"), signal.SIGKILL, 128 + signal.SIGKILL),
    ):
        tasks.exec(main.name, name, process([PROBE[0], *args]))
        expect(f"the state of {name}", tasks.state(main.name, name).status, Status.CREATED)
        tasks.start(main.name, name, stage.left())
        if number is not None:
            expect("the processes", tasks.pids(main.name), ("", name))
            tasks.kill(main.name, name, number, timeout=stage.left())
        _ends(stage, main.name, name, status)


def _terminal(stage: Stage, main: Inhabited) -> None:
    shell = process([PROBE[0], "terminal"])
    shell.Terminal = True
    stage.tasks.exec(main.name, "terminal", shell)
    stage.tasks.start(main.name, "terminal", stage.left())
    stage.tasks.resize_pty(main.name, ROWS, COLUMNS, "terminal", stage.left())
    stage.client.write_stdin(main.name, b"a line\n", "terminal", stage.left())
    printed = stage.client.read_stdout(main.name, "terminal", limit=MIB, timeout=stage.left()).splitlines()
    expect("the terminal's echo", printed[:1], [b"a line"])
    try:
        said = json.loads(printed[-1])
    except ValueError as e:
        raise CheckFailure(f"no JSON from the terminal: {e}") from e
    found = {name: said.get(name) for name in ("rows", "columns", "own")}
    expect("the terminal", found, {"rows": ROWS, "columns": COLUMNS, "own": True})
    _ends(stage, main.name, "terminal")


def _at_once(stage: Stage, main: Inhabited, count: int) -> None:
    """Processes of one container that all run before the first one ends, each with streams of its own."""
    names = [f"copy-{number}" for number in range(count)]
    for name in names:
        stage.tasks.exec(main.name, name, process([PROBE[0], "copy"]))
        stage.tasks.start(main.name, name, stage.left())
    expect("the processes that run", stage.tasks.pids(main.name), ("", *names))
    counted = stage.tasks.stats(main.name, stage.left()).processes
    if counted < count + 1:
        raise CheckFailure(f"{counted} processes and threads in Stats, of {count + 1} at least")
    for name in names:
        stage.client.write_stdin(main.name, name.encode(), name, stage.left())
    for name in names:
        stage.tasks.close_io(main.name, name, stage.left())
        printed = stage.client.read_stdout(main.name, name, limit=MIB, timeout=stage.left())
        expect(f"what {name} copied", printed, name.encode())
        _ends(stage, main.name, name)


def _stream(stage: Stage, main: Inhabited, size: int) -> None:
    """Bytes that no program and no agent can know, through a process and back."""
    data = secrets.token_bytes(size)
    stage.tasks.exec(main.name, "stream", process([PROBE[0], "copy"]))
    stage.tasks.start(main.name, "stream", stage.left())
    with ThreadPoolExecutor(1) as writer:
        written = writer.submit(_write, stage, main.name, data)
        printed = stage.client.read_stdout(main.name, "stream", limit=size + 1, timeout=stage.left())
        written.result()
    if printed != data:
        raise CheckFailure(f"of {size} bytes through a process {len(printed)} came back, or others")
    _ends(stage, main.name, "stream")


def _write(stage: Stage, name: str, data: bytes) -> None:
    stage.client.write_stdin(name, data, "stream", stage.left())
    stage.tasks.close_io(name, "stream", stage.left())


def _out_of_memory(stage: Stage) -> None:
    def change(spec: Spec) -> None:
        spec.Linux.Resources.MergeFrom(HUNGRY.resources())

    stage.start("hungry", stage.storage(DISK).mount_point, (PROBE[0], "take"), change=change)
    expect("who ran out of memory", stage.client.oom_event(stage.left()), "hungry")
    stage.tasks.wait("hungry", timeout=stage.left())
    expect("the status of one that ran out of memory", stage.end("hungry"), 128 + signal.SIGKILL)


def _rounds(stage: Stage, count: int) -> int:
    """Make and remove containers, of which each third runs; return how many KiB of the guest's memory are gone then."""
    disk = stage.storage(DISK)
    stage.start("keeper", disk.mount_point, (PROBE[0], "sleep", "1000"), storages=[stage.words[DISK]])
    before = stage.available_kib()
    for number in range(count):
        name = f"round-{number}"
        if number % 3 == 0:
            stage.start(name, disk.mount_point, (PROBE[0], "sleep", "1000"))
            stage.end(name)
        else:
            stage.create_and_delete(name, disk.mount_point)
    lost = before - stage.available_kib()
    stage.end("keeper")
    return max(0, lost)


def _ends(stage: Stage, container: str, name: str, status: int = 0) -> None:
    """Read the rest of a process's streams, have it end as it must, and forget it."""
    for read in (stage.client.read_stdout, stage.client.read_stderr):
        read(container, name, limit=MIB, timeout=stage.left())
    expect(f"the status of {name}", stage.tasks.wait(container, name, stage.left()).status, status)
    stage.tasks.delete(container, name, stage.left())
