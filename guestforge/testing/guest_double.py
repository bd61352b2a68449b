"""A guest's part, played on the host: it works on real directories and disk files, and lies where a test has it lie."""

import contextlib
import hashlib
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from guestforge.check import exercise
from guestforge.check.engine import CheckFailure, RunEnded
from guestforge.check.guest import Ask, Details, Machine
from guestforge.check.report import Measurements, Qemu
from guestforge.check.stage import Stage
from guestforge.check.storages import Storage
from guestforge.vmm.accel import Accelerator

Said = Mapping[str, Any]  # a probe's answer
Lies = Mapping[str | tuple[str, ...], Said]  # by a command, or one with its arguments


class Probe:
    """A probe that does what it is told; `lies` changes its answers, `forgets` names commands that it does not do."""

    def __init__(self, root: Path, lies: Lies | None = None, forgets: Collection[str] = ()) -> None:
        self.root = root
        self.lies = lies or {}
        self.forgets = forgets

    def __call__(self, args: Sequence[str]) -> Said:
        command, *words = args
        if command in self.forgets:
            return self.answers(command, words)
        answer: Said = getattr(self, command)(*words)
        return {**answer, **self.lies.get(tuple(args), self.lies.get(command, {}))}

    def answers(self, command: str, words: Sequence[str]) -> Said:
        if command == "write":
            return {"size": int(words[1]), "sha256": hashlib.sha256(self.pattern(words)).hexdigest()}
        return {"ok": True}

    def at(self, path: str) -> Path:
        return self.root / path[1:]

    def pattern(self, words: Sequence[str]) -> bytes:
        return exercise.pattern(words[2], int(words[1]))

    def mounts(self) -> Said:
        return {"mounts": [{"target": "/", "fstype": "rootfs"}, {"target": "/", "fstype": "virtiofs"}]}

    def read(self, path: str, *_flags: str) -> Said:
        data = self.at(path).read_bytes()
        return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def stat(self, path: str) -> Said:
        at = self.at(path)
        if at.is_symlink():
            return {"type": "symlink", "target": str(at.readlink())}
        status = at.stat()
        kind = "directory" if at.is_dir() else "file"
        return {"type": kind, "mode": status.st_mode & 0o7777, "size": status.st_size, "mtime": int(status.st_mtime)}

    def list(self, path: str) -> Said:
        return {"names": [entry.name for entry in self.at(path).iterdir()]}

    def write(self, *words: str) -> Said:
        self.at(words[0]).write_bytes(self.pattern(words))
        return self.answers("write", words)

    def rename(self, old: str, new: str) -> Said:
        self.at(old).rename(self.at(new))
        return {"ok": True}

    def unlink(self, path: str) -> Said:
        self.at(path).unlink()
        return {"ok": True}

    def chmod(self, path: str, mode: str) -> Said:
        self.at(path).chmod(int(mode, 8))
        return {"ok": True}

    def truncate(self, path: str, size: str) -> Said:
        with self.at(path).open("r+b") as file:
            file.truncate(int(size))
        return {"ok": True}

    def mkdir(self, path: str, mode: str) -> Said:
        self.at(path).mkdir()
        self.at(path).chmod(int(mode, 8))
        return {"ok": True}


Start = Callable[[Machine], AbstractContextManager["Guest"]]


class Guest:
    """A machine with an agent. Each parameter is a fault, named for it; `at` ends the run at that method."""

    def __init__(
        self,
        machine: Machine,
        *,
        at: Mapping[str, Exception] | None = None,
        lies: Lies | None = None,
        forgets: Collection[str] = (),
        refuses: Collection[str] = (),
        console: list[str] | None = None,
        loses: str | None = None,
    ) -> None:
        self.machine = machine
        self.accelerator = Accelerator("tcg", "a double")
        self.qemu = Qemu("0", ("qemu",))
        self.virtio_fs_server = "double"
        self.vsock_device = "double"
        self.at = at or {}
        self.lies, self.forgets = lies or {}, forgets
        self.refuses = refuses
        self.console = console if console is not None else ["Linux version 6.12.1 (x)"]
        self.loses = loses
        self.disk = machine.place("virtio-blk")
        self.roots = {name: machine.place(name) for name in ("virtio-fs", "virtio-9p")}
        self.roots["virtio-blk"] = self.disk.parent / "mounted"
        self.roots["virtio-blk"].mkdir()
        subprocess.run(["debugfs", "-R", f"rdump / {self.roots['virtio-blk']}", self.disk], check=True)
        machine.console_log.write_text("\n".join(self.console))

    def _meet(self, method: str) -> None:
        if method in self.at:
            raise self.at[method]

    def wait_console(self, text: str, timeout: float) -> str | None:
        self._meet("wait_console")
        return next((line for line in self.console if text in line), None)

    def console_tail(self, lines: int) -> str:
        return "\n".join(self.console[-lines:])

    def console_faults(self) -> Sequence[str]:
        return [line for line in self.console if "WARNING" in line]

    def wait_serving(self, timeout: float) -> bool:
        self._meet("wait_serving")
        return "hung" not in self.console

    def details(self) -> Details:
        self._meet("details")
        missing = self.refuses if "details" in self.console else ()
        return Details("1", frozenset({"blk", "virtio-fs", "9p"}) - set(missing))

    def measure(self) -> Measurements:
        return Measurements(guest_memory_used_kib=1)

    def create_sandbox(self) -> None:
        self._meet("create_sandbox")

    def release(self, storage: Storage, timeout: float) -> None:
        self._meet(f"release {storage.check}")

    @contextlib.contextmanager
    def probing(self, storage: Storage, left: Callable[[], float]) -> Iterator[Ask]:
        yield lambda args: self.run_probe(storage, args)

    def run_probe(self, storage: Storage, args: Sequence[str]) -> Said:
        self._meet(f"run_probe {storage.check}")
        if storage.driver in self.refuses:
            raise CheckFailure(f"no such device for {storage.driver}")
        fstype = {"virtio-fs": "virtiofs", "virtio-blk": "ext4", "virtio-9p": "9p"}[storage.check]
        truth: Lies = {"mounts": {"mounts": [{"target": "/", "fstype": fstype}]}}
        return Probe(self.roots[storage.check], {**truth, **self.lies}, self.forgets)(args)

    def drive(self, proof: Callable[[Stage], str], left: Callable[[], float]) -> str:
        """What it drives is an agent, which is not played here: boot tests have a real one do wrong."""
        self._meet(f"drive {proof.__module__.rpartition('.')[2]}")
        return "driven"

    def power_off(self, timeout: float) -> str:
        self._meet("power_off")
        self.write_disk()
        return "off"

    def write_disk(self) -> None:
        root = self.roots["virtio-blk"]
        if self.loses:
            shutil.rmtree(root / self.loses)
        self.disk.unlink()
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, self.disk, "24m"], check=True)


def starter(start_error: Exception | None = None, guest: Callable[..., Guest] = Guest, **faults: Any) -> Start:
    """Return what starts a double in place of QEMU."""

    @contextlib.contextmanager
    def start(machine: Machine) -> Iterator[Guest]:
        if start_error:
            raise start_error
        yield guest(machine, **faults)

    return start


def ended(kind: str) -> RunEnded:
    return RunEnded(kind, f"the {kind}", "an excerpt")
