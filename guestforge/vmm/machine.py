"""A running machine: QEMU and the programs behind its devices, from start to end."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from qemu.qmp import QMPError

from guestforge.agent.transport import Dial
from guestforge.core import procfs
from guestforge.core.errors import UserError
from guestforge.core.exposure import acts_as_root, refuse_exposed
from guestforge.core.run import Process
from guestforge.core.runtime import HOST, Runtime
from guestforge.project.layout import CHECKOUT
from guestforge.vmm.argv import qemu_argv
from guestforge.vmm.console import Console, Fault
from guestforge.vmm.emulator import Emulator, choose_emulator
from guestforge.vmm.errors import MachineError
from guestforge.vmm.pipes import console_pipes
from guestforge.vmm.plan import MachinePlan, Share, Sockets
from guestforge.vmm.sockets import listen, runtime_directory
from guestforge.vmm.state import Ended, State, how_it_ended
from guestforge.vmm.user import lifeline, qemu_user, with_less_rights
from guestforge.vmm.virtiofs import VirtioFsServer, choose_virtiofs, virtiofs_argv
from guestforge.vmm.vsock import dial, vsock_argv
from guestforge.vmm.watcher import Watched, Watcher

T = TypeVar("T")

START_LIMIT: Final = 30.0  # seconds until QEMU answers; a loaded host takes about one
HELPER_LIMIT: Final = 15.0  # seconds until a program behind a device listens
HELPER_STEP: Final = 0.005


class Machine:
    """A machine that runs while the `with` block does. Nothing is left behind, however that is left.

    Its programs run where `runtime` says. `on_line` gets each line of the console, cleaned, and `on_console` its bytes
    as they came, both in another thread that they must not hold up. Entering raises UserError for a program that is not
    installed, and MachineError (`qemu-failed`, `helper-failed`) for a machine that does not start.
    """

    def __init__(
        self,
        plan: MachinePlan,
        runtime: Runtime = HOST,
        *,
        virtiofs: VirtioFsServer | None = None,
        emulator: Emulator | None = None,
        on_line: Callable[[str], None] | None = None,
        on_console: Callable[[bytes], None] | None = None,
    ) -> None:
        self.plan = plan
        self._runtime = runtime
        self._emulator = emulator
        self.argv: tuple[str, ...] = ()
        self.sockets: Sockets
        self._virtiofs = virtiofs
        self._on_console = on_console
        self._stack = contextlib.ExitStack()
        self._state = State(Console(None), plan.arch.kernel_log_start, on_line, faults_count=plan.console == "log")
        self._watcher: Watcher
        self._programs: list[Watched] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End everything that was started; to be called any number of times."""
        self._state.stopping = True
        self._stack.close()

    # waiting

    def wait_for(self, ready: Callable[[], T | None], limit: float, what: str) -> T:
        """Return what `ready` returns, as soon as that is not None; `what` names it for people.

        `ready` is asked at every line of the console and every event, and must not block. Raises MachineError as soon
        as the machine is beyond use, or with kind `timeout` after `limit` seconds.
        """
        return self._state.wait(ready, limit, what)

    def wait_console(self, text: str, limit: float) -> str:
        """Return the console's first line with a text; raises as `wait_for` does."""
        return self.wait_for(lambda: self._state.find(text), limit, f"{text!r} on the console")

    def wait_end(self, limit: float) -> Ended:
        """Wait until the machine has ended by itself; raises as `wait_for` does, but not for that end."""
        return self._state.wait(lambda: self._state.ended, limit, "end of the machine", needs_qemu=False)

    def verify(self, grace: float = 0.0) -> None:
        """Raise MachineError if the machine is beyond use, or turns out to be within `grace` seconds.

        For whoever has just lost a connection to the guest: the reason may come a moment later.
        """
        self._state.verify(grace)

    def why_ended(self) -> str | None:
        """Return why the machine is beyond use, None while it is not; a transport's GiveUp."""
        return self._state.why()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have a function called, in another thread, as soon as the machine is beyond use."""
        self._state.on_end(callback)

    # looking

    @property
    def qemu_version(self) -> str:
        """QEMU's version, as it says itself."""
        return self._state.version or "unknown"

    @property
    def phases(self) -> Mapping[str, float]:
        """Seconds from the start to `qemu_start` (QEMU answers) and `kernel_up` (the kernel's first line)."""
        return dict(self._state.phases)

    @property
    def ended(self) -> Ended | None:
        """How QEMU ended, None while it runs."""
        return self._state.ended

    @property
    def pids(self) -> Mapping[str, int]:
        """The process ids of its programs: `qemu`, `vsock` where the device is ours, `share TAG` for each virtio-fs."""
        return {watched.role: watched.process.pid for watched in self._programs}

    def find(self, text: str) -> str | None:
        """Return the console's first line with a text, None while there is none."""
        return self._state.find(text)

    def console_tail(self, lines: int) -> str:
        """Return the console's last lines, without control characters."""
        return self._state.tail(lines)

    def console_faults(self) -> tuple[Fault, ...]:
        """Return the lines of the whole console that no healthy guest prints."""
        return self._state.faults()

    def memory(self) -> procfs.Memory | None:
        """Measure QEMU's memory; None if it has ended."""
        try:
            return procfs.memory(Path(f"/proc/{self.pids['qemu']}"))
        except (FileNotFoundError, ProcessLookupError):
            return None

    def instructions(self) -> int:
        """Return how many instructions the guest has executed; the plan must have `icount`."""
        answer = self.execute("query-replay")
        assert isinstance(answer, dict)
        return int(answer["icount"])

    # doing

    def dial(self, port: int) -> Dial:
        """Return what connects to a port of the guest, for the agent's client."""
        if self.plan.vsock is None:
            raise UserError("this machine has no vsock device")
        return dial(self.plan.vsock, self.sockets, port)

    def connect(self, port: int, timeout: float) -> socket.socket:
        """Connect to a port of the guest; gives up as soon as the machine is beyond use. Raises ConnectError."""
        return self.dial(port)(timeout=timeout, give_up=self.why_ended)

    def type(self, data: bytes) -> None:
        """Send bytes to the guest's console, as if typed; returns when QEMU has them, or when it has ended."""
        self._watcher.type(data)

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a command of QEMU's machine protocol. Raises MachineError if QEMU refuses it or is gone."""
        try:
            return self._watcher.execute(command, arguments)
        except (QMPError, TimeoutError) as e:
            self.verify(0.25)
            raise MachineError("qemu-failed", f"QEMU: {command}: {e}") from e

    # starting

    def _start(self) -> None:
        plan, stack = self.plan, self._stack
        for share in plan.shares:
            if not (share.allow_exposed or share.read_only) and acts_as_root():
                refuse_exposed(share.directory, "Share(..., allow_exposed=True)")
        self.sockets = Sockets(stack.enter_context(runtime_directory()))
        emulator = self._emulator or choose_emulator(plan.arch, plan.accelerator, self._runtime)
        if user := qemu_user(plan):
            self.argv = tuple(qemu_argv(plan, self.sockets, emulator.command, emulator.become(user)))
        else:
            self.argv = tuple(qemu_argv(plan, self.sockets, with_less_rights(plan, emulator.command, self._runtime)))
        console = Console(plan.console_log)
        stack.callback(console.close)
        self._state.attach(console)
        helpers = self._start_helpers()
        qmp = stack.enter_context(listen(self.sockets.qmp))
        pipes = stack.enter_context(console_pipes(self.sockets.console))
        qemu = Watched("qemu", "qemu-exited", "QEMU", stack.enter_context(self._runtime.spawn(self.argv)))
        if user:
            stack.enter_context(lifeline(qemu.process, self._runtime))
        self._programs = [qemu, *helpers]
        self._watcher = Watcher(self._state, qemu, helpers, qmp, pipes, on_console=self._on_console)
        stack.callback(self._watcher.stop)
        self._watcher.start()
        self._await_qemu(qemu, helpers)

    def _start_helpers(self) -> tuple[Watched, ...]:
        """Start the programs behind the devices, all at once; return when each of them listens."""
        helpers = tuple(self._helpers())
        for helper, path in helpers:
            _await_socket(helper, path)
        return tuple(helper for helper, _ in helpers)

    def _helpers(self) -> Iterator[tuple[Watched, Path]]:
        vsock = self.plan.vsock
        if vsock and vsock.kind == "builtin":
            process = self._spawn(vsock_argv(vsock, self.sockets))
            yield Watched("vsock", "vsock-died", "the vsock device", process), self.sockets.vhost_vsock
        for index, share in enumerate(self.plan.shares):
            if share.device != "virtio-fs":  # QEMU serves it
                continue
            path = self.sockets.share(index)
            server = self._server_of(share)
            with listen(path, blocking=True) as listener:  # it is the server's; none can do without
                argv = virtiofs_argv(server, self.plan.arch, share, listener.fileno())
                process = self._spawn(argv, listener.fileno())
            yield Watched(f"share {share.tag}", "virtiofs-died", server.name, process), path

    def _server_of(self, share: Share) -> VirtioFsServer:
        if share.read_only:  # which virtiofsd would leave to the guest
            return choose_virtiofs(self.plan.arch, "builtin")
        return self._virtiofs or choose_virtiofs(self.plan.arch, runtime=self._runtime)

    def _spawn(self, argv: list[str], *inherited: int) -> Process:
        return self._stack.enter_context(self._runtime.spawn(argv, cwd=CHECKOUT, pass_fds=inherited))

    def _await_qemu(self, qemu: Watched, helpers: tuple[Watched, ...]) -> None:
        """Wait until QEMU answers. If it does not, its standard error says why, or that of a program that it needs."""
        try:
            self._state.wait(lambda: self._state.version, START_LIMIT, "answer from QEMU")
        except MachineError as e:
            if e.kind not in {"qemu-exited", "qemu-failed", "timeout"}:
                raise
            for helper in helpers:
                if code := helper.process.poll():
                    message = f"{helper.name} ended with {how_it_ended(code)}"
                    raise MachineError("helper-failed", message, excerpt=helper.last_words()) from e
            raise MachineError("qemu-failed", f"QEMU did not start: {e.message}", excerpt=qemu.last_words()) from e


def _await_socket(helper: Watched, path: Path) -> None:
    deadline = time.monotonic() + HELPER_LIMIT
    while not path.exists():
        code = helper.process.wait(HELPER_STEP)
        if code is None and time.monotonic() < deadline:
            continue
        why = f"does not listen after {HELPER_LIMIT:g} s" if code is None else f"ended with {how_it_ended(code)}"
        helper.process.stop()
        pipe = helper.process.popen.stdout
        helper.output.extend(pipe.read() if pipe else b"")
        raise MachineError("helper-failed", f"{helper.name} {why}", excerpt=helper.last_words())
